package differential

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// scenario is a situation that random configurations don't lead to.
type scenario struct {
	name string
	// empty starts with nothing; otherwise kubeadm has made the tree.
	empty  bool
	config func(*config)
	change func(*testing.T, tree)
	// run are the commands; "--config" is added unless they name it, or bare is set.
	run  []string
	bare bool
	// expected are the IDs of the differences that have to show.
	expected []string
}

const (
	day  = 24 * time.Hour
	year = 365 * day
)

func prefixed(prefix string, names ...string) []string {
	var commands []string
	for _, n := range names {
		commands = append(commands, prefix+n)
	}
	return commands
}

func withoutKubeconfigs(t *testing.T, tr tree) {
	t.Helper()
	for _, name := range []string{"admin", "super-admin", "kubelet", "controller-manager", "scheduler"} {
		tr.remove(t, kubeconfigsDir+"/"+name+".conf")
	}
}

// appendCA makes ca.crt a bundle, as in the middle of a CA rotation.
func appendCA(t *testing.T, tr tree) {
	t.Helper()
	second := pki.CertificatesPEM(otherCA(t).Certificate)
	tr.write(t, defaultDir+"/ca.crt", append(tr.read(t, defaultDir+"/ca.crt"), second...))
}

// foreign has a certificate signed by a CA that the tree does not know.
func foreign(t *testing.T, tr tree, name string) {
	t.Helper()
	ca := otherCA(t)
	tr.resign(t, name, ca.Certificate, ca.Key.(*pki.Key), func(*x509.Certificate) {})
}

// moved puts a copy of the CA and nothing else below /srv/pki.
func moved(t *testing.T, tr tree) {
	t.Helper()
	for _, name := range []string{"/ca.crt", "/ca.key"} {
		tr.write(t, "/srv/pki"+name, tr.read(t, defaultDir+name))
	}
}

func uncommon(c *x509.Certificate) {
	c.Subject = pkix.Name{CommonName: "kube-apiserver", Organization: []string{"b", "a"}, OrganizationalUnit: []string{"ops"},
		Country: []string{"DE"}, Locality: []string{"Köln"}, SerialNumber: "17"}
	c.RawSubject = nil
	c.EmailAddresses = []string{"ops@example.test"}
	c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.test", Path: "/apiserver"}}
	c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 99999, 1}}
	c.CRLDistributionPoints = []string{"http://crl.example.test/ca.crl"}
	c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 2}, Value: []byte{5, 0}}}
}

func chmod(t *testing.T, tr tree, name string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(tr.path(name), mode); err != nil {
		t.Fatal(err)
	}
}

// link moves a file and leaves a relative link to its new place.
func link(t *testing.T, tr tree, name, target string) {
	t.Helper()
	tr.write(t, target, tr.read(t, name))
	tr.remove(t, name)
	if err := os.Symlink("../../.."+target, tr.path(name)); err != nil {
		t.Fatal(err)
	}
}

func TestScenarios(t *testing.T) {
	needsKubeadm(t)
	needsChroot(t)
	scenarios := slices.Concat(makingScenarios, reportingScenarios, renewingScenarios)
	fmt.Fprintf(os.Stderr, "differential: %d scenarios\n", len(scenarios))
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			sc.compare(t)
		})
	}
}

func (sc scenario) compare(t *testing.T) {
	start := newTree(t)
	if !sc.empty {
		start = kubeadmTree(t)
	}
	c := plain()
	if sc.config != nil {
		sc.config(&c)
	}
	c.put(t, start)
	if sc.change != nil {
		sc.change(t, start)
	}
	s := newScene(t, &start)
	for _, command := range sc.run {
		args := strings.Fields(command)
		if !sc.bare {
			args = append(args, "--config", configFile)
		}
		s.run(args...)
		settle(s, strings.Join(args, " ")+": stdout")
	}
	s.compare(sc.expected...)
}
