package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
)

// block is a /24 of the loopback network that belongs to one lab: two labs at once, also in
// different processes, never meet on a port.
type block struct {
	prefix netip.Prefix
	lock   *os.File // holds an flock(2), which the kernel frees when the process ends
}

// Blocks are taken from 127.80.1.0/24 to 127.119.254.0/24.
const (
	firstA, lastA = 80, 119
	firstB, lastB = 1, 254
)

// maxNodes leaves the addresses from .200 on to whoever needs one beside the nodes.
const maxNodes = 199

// claimBlock takes a block that no other lab on this machine has. Where the search begins
// depends on the process, so that one that was killed a moment ago is not followed at once
// on the same ports.
func claimBlock() (*block, error) {
	const perA = lastB - firstB + 1
	const count = (lastA - firstA + 1) * perA
	for i := range count {
		n := (os.Getpid() + i) % count
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(firstA + n/perA), byte(firstB + n%perA), 0}), 24)
		b, err := tryBlock(prefix)
		if err == nil {
			return b, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, os.ErrPermission) {
			return nil, err
		}
	}
	return nil, errors.New("every block of loopback addresses is taken by another lab")
}

func tryBlock(prefix netip.Prefix) (*block, error) {
	path := filepath.Join(os.TempDir(), fmt.Sprintf("kubepki-lab-%s.lock", prefix.Addr()))
	// Read-only is enough for flock, and lets other users' locks be seen.
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, fmt.Errorf("claim addresses %s: %w", prefix, err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil && !sameFile(file, path) { // its last owner has removed it under our hands
		err = syscall.EWOULDBLOCK
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("claim addresses %s: %w", prefix, err)
	}
	return &block{prefix, file}, nil
}

// address returns the address of the n-th node, from 1.
func (b *block) address(n int) netip.Addr {
	a := b.prefix.Addr().As4()
	a[3] = byte(n)
	return netip.AddrFrom4(a)
}

// sameFile says whether an open file still has that name.
func sameFile(file *os.File, path string) bool {
	opened, err := file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(path)
	return err == nil && os.SameFile(opened, named)
}

// release gives the block back. Removing the file while it is locked is safe, because
// whoever has opened it looks at its name again.
func (b *block) release() {
	_ = os.Remove(b.lock.Name())
	b.lock.Close()
}
