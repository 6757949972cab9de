package conformance

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// pkitsDay lies within the dates of the suite's good certificates, 2010 to 2030.
var pkitsDay = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

type vector struct {
	Name           string
	CertPath       []string // trust anchor first, end entity last
	ShouldValidate bool
}

// pkits finds the NIST suite in the source of the Go that runs the test.
func pkits(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skipf("the go command doesn't tell where its source is: %v", err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "src", "crypto", "x509", "testdata", "nist-pkits")
	if _, err := os.Stat(filepath.Join(dir, "vectors.json")); errors.Is(err, os.ErrNotExist) {
		t.Skipf("this Go comes without the NIST suite: no %s", dir)
	}
	return dir
}

func vectors(t *testing.T, dir string) []vector {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// verdict says what this house thinks of a path: nil if it is good.
func verdict(dir string, v vector) error {
	var path []*x509.Certificate
	for _, name := range v.CertPath {
		der, err := os.ReadFile(filepath.Join(dir, "certs", name))
		if err != nil {
			return fmt.Errorf("read the suite: %w", err)
		}
		cert, err := pki.CertificateFromDER(der)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		path = append(path, cert)
	}
	chain := slices.Clone(path[1:])
	slices.Reverse(chain)
	return pki.Verify(chain, path[:1], pkitsDay)
}

// deviations lists the vectors in which Verify and the suite disagree, by number (and
// "/n" for a subpart), under the reason. All but the first two come with crypto/x509.
var deviations = map[string][]string{
	"revocation is not looked at: Kubernetes has no revocation lists": {
		"4.4.1", "4.4.2", "4.4.3", "4.4.4", "4.4.5", "4.4.6", "4.4.8", "4.4.9", "4.4.10", "4.4.11", "4.4.12", "4.4.18", "4.4.20", "4.4.21",
		"4.5.2", "4.5.5", "4.5.7", "4.7.4", "4.7.5",
		"4.14.2", "4.14.3", "4.14.8", "4.14.9", "4.14.11", "4.14.12", "4.14.14", "4.14.15", "4.14.16", "4.14.17", "4.14.20", "4.14.21",
		"4.14.23", "4.14.26", "4.14.27", "4.14.31", "4.14.32", "4.14.34", "4.14.35",
		"4.15.1", "4.15.3", "4.15.4", "4.15.6", "4.15.9", "4.15.10",
	},
	"Verify takes no initial policies: components of Kubernetes ask for none": {
		"4.8.1/3", "4.8.2/2", "4.8.3/2", "4.8.3/3", "4.8.6/3", "4.8.14/2", "4.10.1.2/2", "4.10.1.3/3", "4.10.3/1", "4.10.5/2", "4.10.6/2", "4.10.13/3", "4.12.3/2",
	},
	"DSA signatures are not supported":                                              {"4.1.4", "4.1.5"},
	"names are compared byte for byte, without folding of case, spaces or encoding": {"4.3.3", "4.3.4", "4.3.5", "4.3.10", "4.3.11"},
	"self-issued certificates count towards the path length":                        {"4.6.15", "4.6.17"},
	"constraints on directory names are not supported and refused as critical":      {"4.13.1", "4.13.4", "4.13.5", "4.13.6", "4.13.11", "4.13.14", "4.13.18", "4.13.19", "4.13.27"},
	"a host in a constraint on e-mail or URIs also covers the hosts below it":       {"4.13.24", "4.13.25", "4.13.36"},
	"names relative to the CRL issuer do not parse":                                 {"4.14.4", "4.14.5", "4.14.29"},
}

var subpart = regexp.MustCompile(`\(Subpart ([0-9]+)\)$`)

// number returns the short name of a vector that deviations uses.
func (v vector) number() string {
	id, _, _ := strings.Cut(v.Name, " ")
	if part := subpart.FindStringSubmatch(v.Name); part != nil {
		id += "/" + part[1]
	}
	return id
}

func TestPKITS(t *testing.T) {
	t.Parallel()
	dir := pkits(t)
	known := map[string]string{}
	for reason, numbers := range deviations {
		for _, n := range numbers {
			if known[n] != "" {
				t.Errorf("%s is listed twice", n)
			}
			known[n] = reason
		}
	}
	agreed, seen := 0, map[string]bool{}
	for _, v := range vectors(t, dir) {
		n := v.number()
		if seen[n] {
			t.Errorf("two vectors are called %s", n)
		}
		seen[n] = true
		err := verdict(dir, v)
		var read *fs.PathError
		if errors.As(err, &read) {
			t.Fatal(err)
		}
		agrees := (err == nil) == v.ShouldValidate
		switch {
		case agrees && known[n] != "":
			t.Errorf("%s does not deviate any more: strike it from %q", v.Name, known[n])
		case agrees:
			agreed++
		case known[n] == "":
			t.Errorf("%s: should be valid: %v, got %v", v.Name, v.ShouldValidate, err)
		}
	}
	for n, reason := range known {
		if !seen[n] {
			t.Errorf("there is no vector %s, listed under %q", n, reason)
		}
	}
	if agreed < 150 {
		t.Errorf("only %d vectors agree: is this the whole suite?", agreed)
	}
	t.Logf("%d of %d vectors agree, %d deviate for %d known reasons", agreed, len(seen), len(known), len(deviations))
}
