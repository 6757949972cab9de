package inventory

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// checkKeyFile judges the private key that belongs to one of certs.
func (t *tree) checkKeyFile(it *Item, certs []*x509.Certificate, name string) {
	data, err := t.files.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		it.add(KeyMissing, Critical, "%s does not exist", name)
		return
	}
	t.checkMode(it, name)
	if err != nil {
		it.add(Unreadable, unreadable(err), "%v", err)
		return
	}
	checkKey(it, certs, name, data)
}

// unreadable is how bad it is that a file cannot be read. Who is not root may not open
// every file, which says nothing about what is in it.
func unreadable(err error) Severity {
	if errors.Is(err, fs.ErrPermission) {
		return Warning
	}
	return Critical
}

// checkKey judges the PEM of the private key that belongs to one of certs.
func checkKey(it *Item, certs []*x509.Certificate, name string, data []byte) {
	key, err := pki.ParseKey(data)
	var parse *pki.ParseError
	switch {
	case errors.As(err, &parse) && parse.Reason == pki.ReasonEncrypted:
		it.add(Encrypted, Critical, "%s: %v, and no component can ask for the passphrase", name, err)
	case err != nil:
		it.add(Unreadable, Critical, "%s: %v", name, err)
	case !slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return pki.CheckPair(c, key) == nil }):
		it.add(KeyMismatch, Critical, "%s: %v", name, pki.CheckPair(certs[0], key))
	}
}

// checkMode reports files with key material that others than the owner may read.
func (t *tree) checkMode(it *Item, name string) {
	if info, err := os.Stat(t.files.Path(name)); err == nil {
		checkMode(it, name, info.Mode())
	}
}

func checkMode(it *Item, name string, mode fs.FileMode) {
	switch {
	case mode.Perm()&0o007 != 0:
		it.add(KeyMode, Critical, "%s has mode %04o: every user may use the key; want 0600", name, mode.Perm())
	case mode.Perm()&0o070 != 0:
		it.add(KeyMode, Warning, "%s has mode %04o: its group may use the key; want 0600", name, mode.Perm())
	}
}

// serviceAccount judges the key pair that signs tokens.
func (t *tree) serviceAccount(e layout.Entry) {
	it := Item{Name: e.Name, Kind: ServiceAccount, Path: t.cluster.KeyPath(e)}
	data, ok := t.content(it, t.expected(e))
	if !ok {
		return
	}
	t.checkMode(&it, it.Path)
	if key, err := pki.ParseKey(data); err != nil {
		it.add(Unreadable, Critical, "%v", err)
	} else {
		it.Algorithm, it.PublicKey = string(key.Algorithm()), pki.Fingerprint(key.Public())
		checkKeyStrength(&it, key.Algorithm())
		t.checkPublicKey(&it, key, t.cluster.PublicKeyPath(e))
	}
	t.add(it)
}

// checkPublicKey compares a private key with the file that holds its public half.
func (t *tree) checkPublicKey(it *Item, key *pki.Key, name string) {
	data, err := t.files.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		it.add(Missing, Critical, "%s does not exist", name)
		return
	case err != nil:
		it.add(Unreadable, unreadable(err), "%v", err)
		return
	}
	switch public, err := pki.ParsePublicKey(data); {
	case err != nil:
		it.add(Unreadable, Critical, "%s: %v", name, err)
	case !pki.SamePublicKey(public, key.Public()):
		it.add(PublicKeyMismatch, Critical, "%s is not the public half of %s", name, it.Path)
	}
}
