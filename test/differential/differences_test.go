package differential

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// difference is something that kubepki does otherwise than kubeadm on purpose. The table
// of docs/kubeadm-differences.md tells what and why under the same ID.
type difference struct {
	id string
	// everywhere says that it may show in any comparison; the others only where a test
	// expects them.
	everywhere bool
	explains   func(finding) bool
}

// key usages as certificateFacts writes them: the value of the extension follows the words.
const (
	leafUsageRSA   = "critical, digitalSignature keyEncipherment, 030205a0"
	leafUsageECDSA = "critical, digitalSignature, 03020780"
	caUsageRSA     = "critical, digitalSignature keyEncipherment keyCertSign, 030202a4"
	caUsageECDSA   = "critical, digitalSignature keyCertSign, 03020284"
)

var differences = []difference{
	{id: "D01", everywhere: true, explains: func(f finding) bool {
		return f.is("key usage", leafUsageRSA, leafUsageECDSA) || f.is("key usage", caUsageRSA, caUsageECDSA)
	}},
	{id: "D02", everywhere: true, explains: func(f finding) bool {
		return f.is("serial number", "at most 63 bits", "at most 127 bits")
	}},
	{id: "D03", everywhere: true, explains: func(f finding) bool {
		return strings.HasSuffix(f.about, "/"+stateFolder+": mode") && f.kubeadm == "" && f.kubepki == "drwx------"
	}},
	{id: "D04", everywhere: true, explains: func(f finding) bool {
		return f.is("stderr", "silent", "speaks") || f.is("configuration", accepted, warned)
	}},
	{id: "D05", everywhere: true, explains: func(f finding) bool {
		end, clamped := strings.CutSuffix(f.kubepki, withItsCA)
		return f.kind() == "not after" && clamped && fromStartOf(end) <= fromStartOf(f.kubeadm)
	}},
	{id: "D06", everywhere: true, explains: func(f finding) bool {
		usesEndpoint := strings.HasPrefix(f.about, "init phase kubeconfig ") || strings.HasPrefix(f.about, "kubeconfig user ") ||
			strings.HasPrefix(f.about, "certs generate-csr ")
		return usesEndpoint && f.is("stderr", "speaks", "silent")
	}},
	{id: "D07", everywhere: true, explains: func(f finding) bool {
		return strings.HasSuffix(f.about, "client-certificate-data: not before") &&
			strings.HasSuffix(f.kubeadm, withItsCA) && f.kubepki == justNow
	}},
	{id: "D08", explains: func(f finding) bool {
		const first = "the first of " + defaultDir + "/ca.crt, CERTIFICATE"
		const all = "all of " + defaultDir + "/ca.crt, CERTIFICATE, CERTIFICATE"
		return f.is("trusts", first, all) || f.goesOn()
	}},
	{id: "D09", explains: func(f finding) bool {
		return f.refusal() || f.is("exit code", "0", "3") || f.is("stderr", "speaks", "silent") ||
			f.kind() == "stdout" && strings.Contains(f.kubepki, "can't be renewed: CA \"CN=kubernetes\" expired on ")
	}},
	{id: "D10", explains: func(f finding) bool { return f.refusal() || f.is("configuration", accepted, refused) }},
	{id: "D11", explains: finding.refusal},
	{id: "D12", explains: finding.refusal},
	{id: "D13", explains: func(f finding) bool {
		const kept = "[certs] Using the existing \"sa\" key\n"
		const rebuilt = "[certs] Generating \"sa\" public key from the existing private key\n"
		return f.refusal() || f.is("stdout", kept, rebuilt) || f.is("content", "", written)
	}},
	{id: "D14", explains: finding.refusal},
	{id: "D15", explains: finding.goesOn},
	{id: "D16", explains: func(f finding) bool {
		asking := regexp.MustCompile(`(?m)^\[(check-expiration|renew)\] .*\n`)
		return f.kind() == "stdout" && asking.MatchString(f.kubeadm) &&
			strings.TrimPrefix(asking.ReplaceAllString(f.kubeadm, ""), "\n") == f.kubepki
	}},
	{id: "D17", explains: func(f finding) bool { return strings.Contains(f.about, " --cert-dir ") || f.kind() == "content" }},
	{id: "D18", explains: func(f finding) bool {
		isHelp := f.kind() == "stdout" && strings.Contains(f.kubeadm, "\nUsage:\n")
		return f.is("exit code", "1", "2") || f.is("exit code", "0", "2") || isHelp
	}},
	{id: "D19", explains: func(f finding) bool {
		const done = "\nDone renewing certificates."
		switch f.kind() {
		case "exit code":
			return f.kubepki == "3"
		case "stdout":
			// Either kubeadm stopped, or it says that it is done where nothing was.
			before, _, _ := strings.Cut(f.kubeadm, done)
			return strings.HasPrefix(f.kubepki, f.kubeadm) && strings.Contains(f.kubepki, "can't be renewed") || before == f.kubepki
		}
		return f.goesOn()
	}},
	{id: "D20", explains: func(f finding) bool {
		return slices.Contains([]string{"key algorithm", "not after", "PEM", "algorithm"}, f.kind())
	}},
	{id: "D21", explains: func(f finding) bool {
		return strings.Contains(f.about, "/apiserver.crt: ") && (f.kubeadm == "" || slices.Contains([]string{"subject",
			"subject alternative name", "extended key usage", "extensions", "PEM"}, f.kind())) || f.goesOn()
	}},
	{id: "D22", explains: func(f finding) bool { return f.kind() == "layout" && strings.Contains(f.kubepki, "# ours\n") }},
	{id: "D23", explains: finding.goesOn},
	{id: "D24", explains: func(f finding) bool {
		return strings.HasPrefix(f.about, "/etc") && f.kubepki == "" || f.kind() == "stdout" && strings.Contains(f.kubepki, "[dry-run]") ||
			f.is("stderr", "speaks", "silent")
	}},
	{id: "D25", explains: func(f finding) bool {
		return strings.HasPrefix(f.about, "kubeconfig user") && (f.refusal() || f.goesOn() || f.kind() == "not after")
	}},
	{id: "D26", explains: func(f finding) bool {
		return strings.Contains(f.about, "/kubelet.conf: ") && strings.Contains(f.kubepki, "system:node:other-node") &&
			strings.EqualFold(f.kubeadm, f.kubepki)
	}},
	{id: "D27", everywhere: true, explains: func(f finding) bool { return f.kind() == "layout" && unfold(f.kubeadm) == f.kubepki }},
	{id: "D28", everywhere: true, explains: func(f finding) bool {
		return strings.HasPrefix(f.about, "certs generate-csr ") && f.kind() == "stdout" && sortedLines(f.kubeadm) == sortedLines(f.kubepki)
	}},
	{id: "D29", explains: func(f finding) bool {
		const none, data = "- cluster:\n    server:", "- cluster:\n    certificate-authority-data: DATA\n    server:"
		return f.is("trusts", "nothing", "all of "+defaultDir+"/ca.crt, CERTIFICATE") ||
			f.kind() == "layout" && strings.Replace(f.kubeadm, none, data, 1) == f.kubepki
	}},
	{id: "D30", explains: func(f finding) bool {
		return (f.kind() == "content" || f.kind() == "mode") && f.kubepki == "" || f.kind() == "stdout" && f.kubepki == ""
	}},
	{id: "D31", explains: func(f finding) bool { return f.is("configuration", refused, accepted) }},
	{id: "D32", explains: func(f finding) bool { return f.is("configuration", refused, accepted) }},
	{id: "D33", explains: func(f finding) bool {
		const used, skipped = "[certs] Using existing sa keys\n", "[certs] External CA mode: Skipping sa\n"
		return f.kind() == "stdout" && strings.Replace(f.kubeadm, used, skipped, 1) == f.kubepki
	}},
}

// kind is what a finding says about its file or command.
func (f finding) kind() string { return f.about[strings.LastIndex(f.about, ": ")+2:] }

// is says whether a finding is of this kind and has these values.
func (f finding) is(kind, kubeadm, kubepki string) bool {
	return f.kind() == kind && f.kubeadm == kubeadm && f.kubepki == kubepki
}

// refusal says whether a finding belongs to a command that kubeadm carries out and kubepki
// refuses: it fails, prints no result and writes nothing.
func (f finding) refusal() bool {
	switch f.kind() {
	case "exit code":
		return f.kubeadm == "0" && (f.kubepki == "1" || f.kubepki == "2")
	case "content":
		return f.kubeadm == written && f.kubepki != written
	case "stdout", "mode":
		return f.kubepki == ""
	}
	return strings.HasPrefix(f.about, "kubeconfig user") && f.kubepki == ""
}

// goesOn says whether a finding belongs to a command with which kubeadm fails and kubepki
// does not.
func (f finding) goesOn() bool {
	switch f.kind() {
	case "exit code":
		return f.kubeadm == "1" && f.kubepki == "0"
	case "stderr":
		return f.kubeadm == "speaks" && f.kubepki == "silent"
	case "content":
		return f.kubeadm != written && f.kubepki == written
	case "stdout":
		return f.kubeadm == ""
	}
	return strings.HasPrefix(f.about, "kubeconfig user") && f.kubeadm == ""
}

// unfold joins the lines of a kubeconfig that begin with no key to the line before.
func unfold(text string) string {
	key := regexp.MustCompile(`^ *(- )?[a-zA-Z-]+:( |$)`)
	var joined []string
	for _, line := range strings.Split(text, "\n") {
		if line == "" || key.MatchString(line) {
			joined = append(joined, line)
			continue
		}
		joined[len(joined)-1] += " " + strings.TrimSpace(line)
	}
	return strings.Join(joined, "\n")
}

func sortedLines(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// fromStartOf reads what fromStart has written.
func fromStartOf(text string) time.Duration {
	d, err := time.ParseDuration(strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(text, "start "), "+ "), " ", ""))
	if err != nil {
		return 1<<63 - 1
	}
	return d
}

const differencesPage = "docs/kubeadm-differences.md"

func TestTheTableOfDifferencesIsTheDocumentedOne(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(repository, differencesPage))
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, row := range regexp.MustCompile(`(?m)^\| (D\d+) \|.*$`).FindAllSubmatch(page, -1) {
		documented = append(documented, string(row[1]))
		if cells := bytes.Count(row[0], []byte("|")); cells != 5 {
			t.Errorf("%s: row %s has %d cells, want 4", differencesPage, row[1], cells-1)
		}
	}
	var known []string
	for _, d := range differences {
		known = append(known, d.id)
	}
	if !slices.Equal(documented, known) {
		t.Errorf("%s has the rows\n%v, the tests know\n%v", differencesPage, documented, known)
	}
}
