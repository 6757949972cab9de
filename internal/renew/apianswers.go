package renew

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/kubepki/kubepki/pki"
)

// CheckIssued says where a certificate falls short of the request that it answers: signers
// may drop what they don't know. It looks at key, subject and alternative names; the rest is
// not in the request.
func CheckIssued(request []byte, cert *x509.Certificate) error {
	req, err := pki.ParseRequest(request)
	if err != nil {
		return err
	}
	if !pki.SamePublicKey(req.PublicKey, cert.PublicKey) {
		return errors.New("it is for another key")
	}
	if !slices.Equal(attributes(req.Subject), attributes(cert.Subject)) {
		return fmt.Errorf("its subject is %.200q: want %.200q", cert.Subject, req.Subject)
	}
	have := alternativeNames(cert.Extensions)
	var lacks []string
	for _, name := range alternativeNames(req.Extensions) {
		if !slices.ContainsFunc(have, func(n asn1.RawValue) bool { return bytes.Equal(n.FullBytes, name.FullBytes) }) {
			lacks = append(lacks, nameText(name))
		}
	}
	if len(lacks) > 0 {
		return fmt.Errorf("it lacks the alternative names %.500s", strings.Join(lacks, ", "))
	}
	return nil
}

// attributes lists what a subject says, in an order of its own: signers may choose another.
func attributes(name pkix.Name) []string {
	var list []string
	for _, a := range name.Names {
		list = append(list, fmt.Sprintf("%s=%v", a.Type, a.Value))
	}
	slices.Sort(list)
	return list
}

// alternativeNames returns all alternative names, of whatever kind (RFC 5280, 4.2.1.6).
func alternativeNames(extensions []pkix.Extension) []asn1.RawValue {
	var names []asn1.RawValue
	for _, e := range extensions {
		var list asn1.RawValue
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		if _, err := asn1.Unmarshal(e.Value, &list); err != nil {
			continue // crypto/x509 has refused such a certificate already
		}
		for rest := list.Bytes; len(rest) > 0; {
			var name asn1.RawValue
			var err error
			if rest, err = asn1.Unmarshal(rest, &name); err != nil {
				break
			}
			names = append(names, name)
		}
	}
	return names
}

func nameText(name asn1.RawValue) string {
	switch name.Tag {
	case 1, 2, 6:
		return strconv.Quote(string(name.Bytes))
	case 7:
		return net.IP(name.Bytes).String()
	}
	return fmt.Sprintf("of kind %d", name.Tag)
}
