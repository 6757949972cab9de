package cli_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/cli"
	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/internal/csr/csrtest"
	"github.com/kubepki/kubepki/pki"
)

// The review of files says of every case what the decision says.
func TestReviewOfFilesJudgesTheCases(t *testing.T) {
	reviewed := 0
	for _, c := range csrtest.Load(t) {
		t.Run(c.Theme+"/"+c.Name, func(t *testing.T) {
			if c.Observations.DNS != nil {
				t.Skip("files have no answers of DNS")
			}
			reviewed++
			d := reviewCase(t, c)
			if d.Verdict != c.Verdict || d.Reason != c.Reason || d.Name != c.Request.Name {
				t.Errorf("have %s: %s %s, want %s %s\n%s", d.Name, d.Verdict, d.Reason, c.Verdict, c.Reason, d.Message)
			}
		})
	}
	if reviewed < 140 {
		t.Errorf("%d cases were reviewed, want 140 or more", reviewed)
	}
}

func reviewCase(t *testing.T, c csrtest.Case) csr.Decision {
	t.Helper()
	dir := t.TempDir()
	file := func(name string, data []byte, err error) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err == nil {
			err = os.WriteFile(name, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	request, err := c.RequestYAML()
	args := []string{
		"csr", "review", "-o", "json", "-f", file("request.yaml", request, err),
		"--objects", file("objects.yaml", c.ObjectsYAML(), nil), "--now", c.Now.Format(time.RFC3339),
	}
	if s := c.Observations.Served; s != nil && len(s.Chain) > 0 {
		c.Policy.Evidence.ServedCertificate.CAFile = file("ca.crt", pki.CertificatesPEM(s.Roots...), nil)
		node := strings.TrimPrefix(c.Request.Spec.Username, "system:node:")
		args = append(args, "--served-cert", node+"="+file("served.pem", pki.CertificatesPEM(s.Chain...), nil))
	}
	configuration, err := c.Configuration()
	args = append(args, "--config", file("config.yaml", configuration, err))
	var out, errs bytes.Buffer
	code := cli.Main(t.Context(), cli.Env{Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Now: func() time.Time { return c.Now }})
	if code != cli.ExitOK {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	var d csr.Decision
	if err := json.Unmarshal(out.Bytes(), &d); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	return d
}
