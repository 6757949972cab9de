package pki_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// A certificate authority and a serving certificate under it.
func Example_issue() {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	keys, err := pki.GenerateKeys(context.Background(), []pki.Algorithm{pki.ECDSAP256, pki.ECDSAP256})
	if err != nil {
		log.Fatal(err)
	}
	ca, err := pki.NewAuthority("kubernetes", keys[0], pki.ValidFor(now, 10*365*24*time.Hour))
	if err != nil {
		log.Fatal(err)
	}
	validity, err := ca.Clamp(pki.ValidFor(now, 365*24*time.Hour), now)
	if err != nil {
		log.Fatal(err)
	}
	cert, err := ca.Issue(pki.Profile{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		DNSNames:    []string{"kubernetes", "kubernetes.default"},
		IPAddresses: []net.IP{net.IPv4(10, 96, 0, 1)},
		Usages:      []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, keys[1].Public(), validity)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(cert.Subject, cert.DNSNames, cert.IPAddresses, cert.NotAfter.Format(time.DateOnly))
	// Output: CN=kube-apiserver [kubernetes kubernetes.default] [10.96.0.1] 2027-03-01
}

// Reading files that others made, and judging them.
func Example_verify() {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	caFile, certFile, keyFile := someFiles(now)

	trusted, err := pki.ParseCertificates(caFile)
	if err != nil {
		log.Fatal(err)
	}
	chain, err := pki.ParseCertificates(certFile)
	if err != nil {
		log.Fatal(err)
	}
	key, err := pki.ParseKey(keyFile)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("pair:", pki.CheckPair(chain[0], key))
	fmt.Println("today:", pki.Verify(chain, trusted, now, x509.ExtKeyUsageClientAuth))

	err = pki.Verify(chain, trusted, now.AddDate(2, 0, 0))
	var bad *pki.ChainError
	if errors.As(err, &bad) {
		fmt.Printf("in two years: %s: %v\n", bad.Reason, bad)
	}

	_, err = pki.ParseKey(certFile)
	var unreadable *pki.ParseError
	if errors.As(err, &unreadable) {
		fmt.Printf("%s: %v\n", unreadable.Reason, unreadable)
	}
	// Output:
	// pair: <nil>
	// today: <nil>
	// in two years: Expired: certificate "CN=admin" expired on 2027-03-01T12:00:00Z
	// WrongType: holds a PEM block of type "CERTIFICATE", but no private key
}

func someFiles(now time.Time) (ca, cert, key []byte) {
	keys, err := pki.GenerateKeys(context.Background(), []pki.Algorithm{pki.ECDSAP256, pki.ECDSAP256})
	if err != nil {
		log.Fatal(err)
	}
	authority, err := pki.NewAuthority("kubernetes", keys[0], pki.ValidFor(now, 10*365*24*time.Hour))
	if err != nil {
		log.Fatal(err)
	}
	leaf, err := authority.Issue(pki.Profile{
		Subject: pkix.Name{CommonName: "admin"}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, keys[1].Public(), pki.ValidFor(now, 365*24*time.Hour))
	if err != nil {
		log.Fatal(err)
	}
	key, err = keys[1].PEM()
	if err != nil {
		log.Fatal(err)
	}
	return pki.CertificatesPEM(authority.Certificate), pki.CertificatesPEM(leaf), key
}
