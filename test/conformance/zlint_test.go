package conformance

import (
	"crypto/x509"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// sources are the rules that hold for any certificate. The others bind public web CAs
// (CA/Browser Forum, browsers), signatures by law (ETSI) or code and mail signing.
var sources = lint.SourceList{lint.RFC5280, lint.RFC3279, lint.RFC5480, lint.RFC5891, lint.RFC8813, lint.Community}

// remarks are zlint's warnings and notices that are accepted, with the reason.
var remarks = map[string]string{
	"w_ext_subject_key_identifier_missing_sub_cert": "RFC 5280 only recommends it for leaves, and kubeadm's have none",
	"n_san_iana_pub_suffix_empty":                   "the names of clusters are not of the public DNS",
	"n_multiple_subject_rdn":                        "several organizations in one RDN, as kubeadm writes them",
}

func rules(t *testing.T) lint.Registry {
	t.Helper()
	registry, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: sources})
	if err != nil {
		t.Fatal(err)
	}
	return registry
}

// complaints returns the names of the rules that a certificate breaks, errors apart
// from lesser remarks, and counts the rules that looked at it.
func complaints(t *testing.T, registry lint.Registry, cert *x509.Certificate) (errors, lesser []string, applied int) {
	t.Helper()
	parsed, err := zx509.ParseCertificate(cert.Raw)
	if err != nil {
		t.Fatalf("zlint cannot read %s: %v", describe(cert), err)
	}
	for name, result := range zlint.LintCertificateEx(parsed, registry).Results {
		switch result.Status {
		case lint.Error, lint.Fatal:
			errors = append(errors, name)
		case lint.Warn, lint.Notice:
			lesser = append(lesser, name)
		case lint.Pass:
		default:
			continue
		}
		applied++
	}
	slices.Sort(errors)
	return errors, lesser, applied
}

func TestZlintFindsNoOtherErrors(t *testing.T) {
	t.Parallel()
	registry := rules(t)
	const each = 1000
	for i, a := range pki.Algorithms() {
		t.Run(string(a), func(t *testing.T) {
			t.Parallel()
			shop, dice := workshopOf(t, a), newDice(uint64(i))
			ways, lesser, applied := map[string]int{}, map[string]int{}, 0
			judge := func(cert *x509.Certificate, way string) {
				t.Helper()
				broken, remarked, n := complaints(t, registry, cert)
				if len(broken) > 0 {
					t.Errorf("%s breaks %v: %s", way, broken, describe(cert))
				}
				for _, name := range remarked {
					lesser[name]++
					if remarks[name] == "" {
						t.Errorf("%s: %s: %s", way, name, describe(cert))
					}
				}
				ways[way]++
				applied += n
			}
			for _, ca := range shop.cas {
				judge(ca.Certificate, "CA")
			}
			for range each {
				profile, way := dice.profile(t, shop)
				judge(dice.issue(t, shop, profile), way)
				if t.Failed() {
					return // the rest would only say the same
				}
			}
			for _, e := range signedEntries {
				if ways[e.Name] == 0 {
					t.Errorf("chance left %s out", e.Name)
				}
			}
			rulesOfCertificates := len(registry.CertificateLints().Lints())
			t.Logf("%d certificates, %d rules, %d of them apply on average; remarks: %v",
				each+len(shop.cas), rulesOfCertificates, applied/(each+len(shop.cas)), lesser)
		})
	}
}

// A judge that never objects is no judge.
func TestZlintObjectsToTheUsageOfKubeadmsECDSALeaves(t *testing.T) {
	t.Parallel()
	shop := workshopOf(t, pki.ECDSAP256)
	cert := rawCertificate(t, shop, &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment})
	broken, _, _ := complaints(t, rules(t), cert)
	if len(broken) == 0 {
		t.Error("keyEncipherment with an ECDSA key (RFC 8813) went through")
	}
}

// Kubernetes allows more for a node's name than X.509 for a common name and DNS for a
// label. Such nodes work, so they get their certificates; this is all that is wrong.
func TestLongNodeNames(t *testing.T) {
	t.Parallel()
	shop, registry := workshopOf(t, pki.ECDSAP256), rules(t)
	label63 := strings.Repeat("a", 63)
	for sentence, test := range map[string]struct {
		node string
		want map[string][]string // entry: errors
	}{
		"52 characters are fine": {strings.Repeat("a", 52), nil},
		"53 are too many for the kubelet's prefix": {strings.Repeat("a", 53), map[string][]string{
			"kubelet.conf": {"e_subject_common_name_max_length"},
		}},
		"253 are too many for a common name": {strings.Join([]string{label63, label63, label63, label63[:61]}, "."), map[string][]string{
			"kubelet.conf": {"e_subject_common_name_max_length"},
			"etcd-server":  {"e_subject_common_name_max_length"},
			"etcd-peer":    {"e_subject_common_name_max_length"},
		}},
		"a label of 64": {label63 + "a.b", map[string][]string{
			"apiserver":    {"e_rfc_dnsname_label_too_long"},
			"kubelet.conf": {"e_subject_common_name_max_length"},
			"etcd-server":  {"e_rfc_dnsname_label_too_long", "e_subject_common_name_max_length"},
			"etcd-peer":    {"e_rfc_dnsname_label_too_long", "e_subject_common_name_max_length"},
		}},
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			c := layout.Default()
			c.NodeName, c.AdvertiseAddress = test.node, netip.MustParseAddr("192.0.2.1")
			if err := c.Validate(); err != nil {
				t.Fatal(err)
			}
			got := map[string][]string{}
			for _, e := range signedEntries {
				p, err := c.Profile(e)
				if err != nil {
					t.Fatal(err)
				}
				if broken, _, _ := complaints(t, registry, newDice(1).issue(t, shop, p)); broken != nil {
					got[e.Name] = broken
				}
			}
			if !maps.EqualFunc(got, test.want, slices.Equal[[]string]) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
