package pki_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/gob"
	"encoding/json"
	"encoding/pem"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/pki"
)

var allAlgorithms = append(pki.Algorithms(), pki.ECDSAP521, pki.Ed25519)

// secretsOf returns the numbers that make a key private.
func secretsOf(t *testing.T, key *pki.Key) [][]byte {
	t.Helper()
	data, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	b, _ := pem.Decode(data)
	switch b.Type {
	case "RSA PRIVATE KEY":
		k, err := x509.ParsePKCS1PrivateKey(b.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return [][]byte{k.D.Bytes(), k.Primes[0].Bytes(), k.Primes[1].Bytes()}
	case "EC PRIVATE KEY":
		k, err := x509.ParseECPrivateKey(b.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return [][]byte{secret}
	}
	k, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{k.(ed25519.PrivateKey).Seed()}
}

// shows says whether text holds a part of the secret in one of the forms in which
// programs print bytes and numbers.
func shows(text string, secret []byte) bool {
	middle := secret[len(secret)/4 : len(secret)*3/4]
	middle = middle[:len(middle)/3*3] // whole base64 groups
	forms := []string{
		string(middle),
		fmt.Sprintf("%x", middle),
		fmt.Sprintf("%X", middle),
		strings.Trim(fmt.Sprint(middle), "[]"),
		strings.Trim(fmt.Sprintf("%#v", middle), "[]byte{}"),
		new(big.Int).SetBytes(secret).String(),
	}
	for shift := range 3 {
		forms = append(forms, base64.RawStdEncoding.EncodeToString(secret[shift:shift+len(middle)/3*3]))
	}
	for _, form := range forms {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

func TestKeyIsNeverPrinted(t *testing.T) {
	t.Parallel()
	for _, a := range []pki.Algorithm{pki.RSA2048, pki.ECDSAP256, pki.ECDSAP521, pki.Ed25519} {
		t.Run(string(a), func(t *testing.T) {
			t.Parallel()
			key := newKey(t, a)
			secrets := secretsOf(t, key)
			clean := func(how, text string) {
				t.Helper()
				for _, secret := range secrets {
					if shows(text, secret) {
						t.Fatalf("%s shows the private key", how)
					}
				}
			}
			holders := map[string]any{
				"pointer": key, "value": *key, "slice": []*pki.Key{key}, "values": []pki.Key{*key},
				"map": map[string]*pki.Key{"k": key}, "field": struct{ Key *pki.Key }{key}, "value field": struct{ Key pki.Key }{*key},
				"hidden field": struct{ key *pki.Key }{key}, "hidden value": struct{ key pki.Key }{*key},
				"pointer to hidden": &struct{ key pki.Key }{*key}, "authority": pki.Authority{Key: key}, "error": fmt.Errorf("key %v", key),
			}
			for name, holder := range holders {
				for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d", "%t", "%p", "%o", "%U", "%c", "%e", "%b", "%T"} {
					clean(name+" "+verb, fmt.Sprintf(verb, holder))
				}
				data, err := json.Marshal(holder)
				if err == nil {
					clean(name+" json", string(data))
				}
				var out bytes.Buffer
				slog.New(slog.NewTextHandler(&out, nil)).Info("made", "key", holder)
				slog.New(slog.NewJSONHandler(&out, nil)).Info("made", "key", holder)
				slog.New(slog.NewTextHandler(&out, nil)).With("key", holder).WithGroup("g").Info("made", slog.Any("again", holder))
				clean(name+" slog", out.String())
				out.Reset()
				if gob.NewEncoder(&out).Encode(holder) == nil {
					clean(name+" gob", out.String())
				}
				if data, err := xml.Marshal(holder); err == nil {
					clean(name+" xml", string(data))
				}
			}
			// What does get printed is the fingerprint.
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
				for _, k := range []any{key, *key} {
					if got := fmt.Sprintf(verb, k); got != key.String() || !strings.Contains(got, pki.Fingerprint(key.Public())) {
						t.Errorf("%s prints %q", verb, got)
					}
				}
			}
			if data, err := json.Marshal(map[string]any{"key": key}); err != nil || string(data) != `{"key":"`+key.String()+`"}` {
				t.Errorf("JSON is %s (%v)", data, err)
			}
		})
	}
}

func TestTheSearchForPrintedKeysFindsThem(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := ecKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(struct{ K []byte }{edKey})
	if err != nil {
		t.Fatal(err)
	}
	for text, secret := range map[string][]byte{
		fmt.Sprintf("%v", rsaKey):                         rsaKey.D.Bytes(),
		fmt.Sprintf("%v", edKey):                          edKey.Seed(),
		fmt.Sprintf("%#v", edKey):                         edKey.Seed(),
		fmt.Sprintf("%x", edKey):                          edKey.Seed(),
		fmt.Sprintf("%X", edKey):                          edKey.Seed(),
		fmt.Sprintf("%s", edKey):                          edKey.Seed(),
		string(asJSON):                                    edKey.Seed(),
		fmt.Sprint(new(big.Int).SetBytes(scalar)):         scalar,
		base64.StdEncoding.EncodeToString(scalar):         scalar,
		fmt.Sprint(struct{ k ed25519.PrivateKey }{edKey}): edKey.Seed(),
	} {
		if !shows(text, secret) {
			t.Errorf("not found in %.60q…", text)
		}
	}
}

func TestNoKeyPrintsAsSuch(t *testing.T) {
	t.Parallel()
	var none *pki.Key
	if got := fmt.Sprintf("%v %s", none, pki.Key{}); got != "<nil> <no key>" {
		t.Errorf("%q", got)
	}
}

func TestKeysSurviveTheirPEM(t *testing.T) {
	t.Parallel()
	headings := map[pki.Algorithm]string{pki.ECDSAP256: "EC PRIVATE KEY", pki.ECDSAP384: "EC PRIVATE KEY", pki.ECDSAP521: "EC PRIVATE KEY", pki.Ed25519: "PRIVATE KEY"}
	for _, a := range allAlgorithms {
		t.Run(string(a), func(t *testing.T) {
			t.Parallel()
			key := newKey(t, a)
			if key.Algorithm() != a || a.Weak() || a.IsRSA() != strings.HasPrefix(string(a), "RSA") {
				t.Errorf("is %s: weak %v, RSA %v", key.Algorithm(), a.Weak(), a.IsRSA())
			}
			data, err := key.PEM()
			if err != nil {
				t.Fatal(err)
			}
			want := headings[a]
			if a.IsRSA() {
				want = "RSA PRIVATE KEY"
			}
			if !bytes.HasPrefix(data, []byte("-----BEGIN "+want+"-----\n")) {
				t.Errorf("starts with %.40q, want a %q", data, want)
			}
			again, err := pki.ParseKey(data)
			if err != nil {
				t.Fatal(err)
			}
			if pki.Fingerprint(again.Public()) != pki.Fingerprint(key.Public()) {
				t.Error("another key came back")
			}
			pub, err := pki.ParsePublicKey(publicPEM(t, key))
			if err != nil || !pki.SamePublicKey(pub, key.Public()) {
				t.Errorf("public key: %v", err)
			}
		})
	}
}

func TestFingerprintIsTheHashOfThePublicKeyInfo(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "ca")
	sum := sha256.Sum256(ca.Certificate.RawSubjectPublicKeyInfo)
	if got := pki.Fingerprint(ca.Key.Public()); got != fmt.Sprintf("%x", sum) {
		t.Errorf("fingerprint %s", got)
	}
	if got := pki.Fingerprint(nil); got != "unknown (<nil>)" {
		t.Errorf("of no key: %s", got)
	}
}

func TestSamePublicKey(t *testing.T) {
	t.Parallel()
	a, b := newKey(t, pki.ECDSAP256).Public(), newKey(t, pki.ECDSAP256).Public()
	r := newKey(t, pki.RSA2048).Public()
	if !pki.SamePublicKey(a, a) {
		t.Error("a key is not itself")
	}
	for _, pair := range [][2]any{{a, b}, {a, r}, {r, a}, {a, nil}, {nil, a}, {nil, nil}, {"key", "key"}} {
		if pki.SamePublicKey(pair[0], pair[1]) {
			t.Errorf("%T equals another %T", pair[0], pair[1])
		}
	}
}

func TestParseAlgorithm(t *testing.T) {
	t.Parallel()
	for _, a := range pki.Algorithms() {
		if got, err := pki.ParseAlgorithm(string(a)); got != a || err != nil {
			t.Errorf("%s: %s, %v", a, got, err)
		}
	}
	for _, name := range []string{"", "rsa-2048", "RSA-1024", "RSA-2048 ", "ECDSA-P521", "Ed25519"} {
		if _, err := pki.ParseAlgorithm(name); err == nil || !strings.Contains(err.Error(), "want one of RSA-2048, RSA-3072, RSA-4096, ECDSA-P256, ECDSA-P384") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestAlgorithmOfAndWeak(t *testing.T) {
	t.Parallel()
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaOf := func(bits uint) *rsa.PublicKey {
		return &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), bits-1), E: 65537}
	}
	for name, test := range map[string]struct {
		pub  any
		want pki.Algorithm
		weak bool
	}{
		"RSA of 512 bits":       {rsaOf(512), "RSA-512", true},
		"RSA one bit too short": {rsaOf(2047), "RSA-2047", true},
		"RSA of 2048 bits":      {rsaOf(2048), pki.RSA2048, false},
		"RSA of 8192 bits":      {rsaOf(8192), "RSA-8192", false},
		"a short curve":         {&p224.PublicKey, "ECDSA-P224", true},
		"a key Go ignores":      {nil, "unknown", true},
		"something else":        {"key", "string", true},
	} {
		got := pki.AlgorithmOf(test.pub)
		if got != test.want || got.Weak() != test.weak {
			t.Errorf("%s: %s, weak %v", name, got, got.Weak())
		}
	}
	if a := pki.Algorithm("RSA-many"); !a.Weak() {
		t.Error("RSA without a size is not weak")
	}
}

func TestGenerateKeyRefusesWhatIsWeakOrUnknown(t *testing.T) {
	t.Parallel()
	for _, a := range []pki.Algorithm{"", "RSA", "RSA-", "RSA-1024", "RSA-2047", "RSA--4096", "RSA-16385", "RSA-99999999999999999999", "ECDSA-P224", "DSA"} {
		if key, err := pki.GenerateKey(a); err == nil || key != nil {
			t.Errorf("%q was made", a)
		}
	}
}

func TestGenerateKeysKeepsTheOrder(t *testing.T) {
	t.Parallel()
	want := []pki.Algorithm{pki.ECDSAP384, pki.RSA2048, pki.ECDSAP256, pki.ECDSAP384, pki.RSA2048, pki.Ed25519, pki.ECDSAP256}
	keys, err := pki.GenerateKeys(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) != len(want) {
		t.Fatalf("%d keys, want %d", len(keys), len(want))
	}
	seen := map[string]bool{}
	for i, key := range keys {
		if key.Algorithm() != want[i] {
			t.Errorf("key %d is %s, want %s", i, key.Algorithm(), want[i])
		}
		seen[pki.Fingerprint(key.Public())] = true
	}
	if len(seen) != len(keys) {
		t.Error("a key was given out twice")
	}
	if keys, err := pki.GenerateKeys(t.Context(), nil); err != nil || len(keys) != 0 {
		t.Errorf("no keys wanted: %d, %v", len(keys), err)
	}
}

func TestGenerateKeysStops(t *testing.T) {
	t.Parallel()
	reason := errors.New("the user lost patience")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	if _, err := pki.GenerateKeys(ctx, []pki.Algorithm{pki.ECDSAP256}); !errors.Is(err, reason) {
		t.Errorf("before the start: %v", err)
	}
	// Nobody waits for this many, so it can only end by the cancellation in its middle.
	ctx, cancel = context.WithCancelCause(t.Context())
	many := make([]pki.Algorithm, 1_000_000)
	for i := range many {
		many[i] = pki.RSA4096
	}
	done := make(chan error)
	go func() {
		_, err := pki.GenerateKeys(ctx, many)
		done <- err
	}()
	cancel(reason)
	if err := <-done; !errors.Is(err, reason) {
		t.Errorf("in the middle: %v", err)
	}
	if _, err := pki.GenerateKeys(t.Context(), []pki.Algorithm{pki.ECDSAP256, "RSA-512"}); err == nil {
		t.Error("an unsupported algorithm was made")
	}
}
