package inventory

import (
	"encoding/asn1"
	"strings"
	"testing"
)

func TestPKCS12ThatAsksForEndlessWorkIsNotTried(t *testing.T) {
	t.Parallel()
	type macData struct {
		Digest     []byte
		Salt       []byte
		Iterations int
	}
	type authSafe struct {
		Type    asn1.ObjectIdentifier
		Content []byte
	}
	inner, err := asn1.Marshal(macData{[]byte("digest"), []byte("salt"), 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	data := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	for name, pfx := range map[string]struct {
		Version  int
		AuthSafe authSafe
		Mac      macData
	}{
		"to check the password": {3, authSafe{data, nil}, macData{[]byte("digest"), []byte("salt"), 1 << 40}},
		"to decrypt":            {3, authSafe{data, inner}, macData{[]byte("digest"), []byte("salt"), 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			der, err := asn1.Marshal(pfx)
			if err != nil {
				t.Fatal(err)
			}
			items := newScanner(ScanOptions{Now: testNow}).content(Item{Path: "a.p12"}, der, 0o600, "")
			if len(items) != 1 || len(items[0].Findings) != 1 || !strings.Contains(items[0].Findings[0].Message, "rounds") {
				t.Errorf("items %+v", items)
			}
		})
	}
}
