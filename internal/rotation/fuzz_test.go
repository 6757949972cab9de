package rotation

import (
	"bytes"
	"os"
	"testing"

	"github.com/kubepki/kubepki/pki"
)

// Whatever lies in the folder: what is taken from it is whole, and survives being stored again.
func FuzzStore(f *testing.F) {
	request, err := NewPending(NodeClient("node-1"))
	if err != nil {
		f.Fatal(err)
	}
	key, err := request.Key.PEM()
	if err != nil {
		f.Fatal(err)
	}
	ca, err := pki.NewAuthority("kubernetes", request.Key, pki.Validity{NotBefore: epoch, NotAfter: epoch.Add(year)})
	if err != nil {
		f.Fatal(err)
	}
	certificate := pki.CertificatesPEM(ca.Certificate)
	for _, seed := range [][]byte{
		nil, key, certificate, request.PKCS10, append(bytes.Clone(request.PKCS10), key...), append(bytes.Clone(certificate), key...),
		append(append(bytes.Clone(certificate), certificate...), key...), append(bytes.Clone(key), certificate...),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := Store{Dir: t.TempDir(), Prefix: "x"}
		for _, name := range []string{s.Current(), s.file("pending")} {
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if p, err := s.Pending(); err == nil && p != nil {
			if err := s.Keep(p); err != nil {
				t.Fatal(err)
			}
			if again, err := s.Pending(); err != nil || !bytes.Equal(again.PKCS10, p.PKCS10) || !pki.SamePublicKey(again.Key.Public(), p.Key.Public()) {
				t.Fatalf("a request that was kept is read as another: %v", err)
			}
		}
		if p, err := s.Load(epoch); err == nil {
			if err := s.Switch(p, epoch); err != nil {
				t.Fatal(err)
			}
			if again, err := s.Load(epoch); err != nil || !again.Leaf().Equal(p.Leaf()) || len(again.Chain) != len(p.Chain) {
				t.Fatalf("a certificate that was stored is read as another: %v", err)
			}
		}
	})
}
