package kube

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestCertificateKeysOpenWhatTheySealed(t *testing.T) {
	key := NewCertificateKey()
	again, err := ParseCertificateKey(key.Hex())
	if err != nil {
		t.Fatal(err)
	}
	for _, plain := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("certificate"), 1000)} {
		sealed, err := key.Encrypt(plain)
		if err != nil {
			t.Fatal(err)
		}
		if len(sealed) != len(plain)+28 {
			t.Errorf("%d bytes became %d, want a nonce of 12 and a tag of 16 more", len(plain), len(sealed))
		}
		opened, err := again.Decrypt(sealed)
		if err != nil || !bytes.Equal(opened, plain) {
			t.Errorf("%d bytes came back as %d: %v", len(plain), len(opened), err)
		}
		if twice, err := key.Encrypt(plain); err != nil || bytes.Equal(twice, sealed) {
			t.Errorf("the nonce was used twice (%v)", err)
		}
		if _, err := NewCertificateKey().Decrypt(sealed); !errors.Is(err, ErrWrongKey) {
			t.Errorf("another key: %v", err)
		}
		for i := range min(len(sealed), 200) {
			damaged := bytes.Clone(sealed)
			damaged[i] ^= 1
			if _, err := key.Decrypt(damaged); !errors.Is(err, ErrWrongKey) {
				t.Fatalf("byte %d changed: %v", i, err)
			}
			if _, err := key.Decrypt(sealed[:i]); !errors.Is(err, ErrWrongKey) {
				t.Fatalf("cut to %d bytes: %v", i, err)
			}
		}
	}
}

// A known answer, computed with another implementation of AES-256-GCM: key 00 01 … 1f, nonce
// 00 … 0b, plain text "kubepki".
func TestEncryptionIsKubeadmsForm(t *testing.T) {
	key, err := ParseCertificateKey("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := hex.DecodeString("000102030405060708090a0b" + "2c77b47eb58eabb711877a148268bf94427da008c8797d")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := key.Decrypt(sealed)
	if err != nil || string(plain) != "kubepki" {
		t.Errorf("got %q, %v", plain, err)
	}
}

func TestCertificateKeysThatAreRefused(t *testing.T) {
	good := NewCertificateKey().Hex()
	for name, text := range map[string]string{
		"empty":            "",
		"one digit short":  good[1:],
		"16 bytes":         good[:32],
		"33 bytes":         good + "00",
		"not hexadecimal":  "zz" + good[2:],
		"a line end":       good + "\n",
		"a prefix":         "0x" + good[2:],
		"a space in front": " " + good[1:],
	} {
		if _, err := ParseCertificateKey(text); err == nil {
			t.Errorf("%s: accepted", name)
		} else if len(text) > 2 && strings.Contains(err.Error(), strings.TrimSpace(text)) {
			t.Errorf("%s: the error quotes the key", name)
		}
	}
	var none CertificateKey
	if _, err := none.Encrypt([]byte("x")); err == nil {
		t.Error("encrypted without a key")
	}
	if _, err := none.Decrypt(make([]byte, 100)); err == nil {
		t.Error("decrypted without a key")
	}
}

func TestCertificateKeysPrintRedacted(t *testing.T) {
	key := NewCertificateKey()
	inside := struct{ K CertificateKey }{key}
	hidden := struct{ k CertificateKey }{key}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+" "+verb+" "+verb+"\n", key, inside, hidden)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", key, "inside", inside)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", key, "inside", inside)
	if err := json.NewEncoder(&out).Encode(inside); err != nil {
		t.Fatal(err)
	}
	raw, err := hex.DecodeString(key.Hex())
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{key.Hex(), strings.ToUpper(key.Hex()), key.Hex()[:16], fmt.Sprint(raw[:4])[1:], fmt.Sprintf("%#x", raw[0]) + ", " + fmt.Sprintf("%#x", raw[1])} {
		if bytes.Contains(out.Bytes(), []byte(strings.TrimSuffix(secret, "]"))) {
			t.Errorf("%q was printed in\n%s", secret, out.String())
		}
	}
	if !strings.Contains(out.String(), redacted) {
		t.Error("nothing says that the key is redacted")
	}
}

func FuzzDecrypt(f *testing.F) {
	key := NewCertificateKey()
	for _, plain := range []string{"", "a", "-----BEGIN CERTIFICATE-----"} {
		sealed, err := key.Encrypt([]byte(plain))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(sealed)
	}
	f.Add([]byte("short"))
	other := NewCertificateKey()
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := other.Decrypt(data); !errors.Is(err, ErrWrongKey) {
			t.Errorf("opened %x: %v", data, err)
		}
	})
}
