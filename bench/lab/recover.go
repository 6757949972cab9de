package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"time"

	"github.com/kubepki/kubepki/internal/lab"
)

// recoverTarget is how long three control planes and five workers may take to come back.
const recoverTarget = 120 * time.Second

// recovery lets a whole cluster expire and brings it back.
func (b *bench) recovery(ctx context.Context) (missed int, err error) {
	l, err := b.start(ctx, 3, 5)
	if err != nil {
		return 0, err
	}
	defer l.Stop()
	progress("let everything expire")
	for _, n := range l.Nodes() {
		n.PowerOff()
		if err := l.Age(ctx, n, 400*24*time.Hour); err != nil {
			return 0, err
		}
	}
	for _, n := range l.Nodes() {
		if err := n.PowerOn(); err != nil {
			return 0, err
		}
	}
	progress("recover")
	began := time.Now()
	if err := b.recoverAll(ctx, l); err != nil {
		return 0, err
	}
	took := time.Since(began)
	verdict := "ok"
	if took > recoverTarget {
		verdict, missed = "missed", 1
	}
	fmt.Printf("3 control planes and 5 workers recovered in %.1f s   target %.0f s   %s\n", took.Seconds(), recoverTarget.Seconds(), verdict)
	return missed, nil
}

// recoverAll does what a person would do, without the walking. Each run ends when everything
// on its node is proved.
func (b *bench) recoverAll(ctx context.Context, l *lab.Lab) error {
	// The first one waits for its peers (3); later ones see nodes that need help (3).
	for _, name := range []string{"cp1", "cp2", "cp3"} {
		if err := b.on(ctx, l.Node(name), []int{0, 3}, "recover"); err != nil {
			return err
		}
	}
	first := l.Node("cp1")
	if err := b.on(ctx, first, []int{0}, "certs", "verify", "--restart", "auto"); err != nil {
		return err
	}
	const bundles = "/root/bundles"
	args := []string{"recover", "--worker-bundle", bundles}
	var workers []*lab.Node
	for _, n := range l.Nodes() {
		if !n.ControlPlane {
			workers = append(workers, n)
			args = append(args, "--worker", n.Name)
		}
	}
	if err := b.on(ctx, first, []int{3}, args...); err != nil {
		return err
	}
	for _, n := range workers {
		name := n.Name + ".bundle"
		data, err := os.ReadFile(first.Path(path.Join(bundles, name)))
		if err != nil {
			return err
		}
		if err := os.WriteFile(n.Path("/"+name), data, 0o600); err != nil {
			return err
		}
		if err := b.on(ctx, n, []int{0}, "recover", "--bundle", "/"+name); err != nil {
			return err
		}
	}
	return nil
}
