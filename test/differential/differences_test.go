package differential

import (
	"strings"
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
		return f.is("stderr", "silent", "speaks")
	}},
}

// is says whether a finding is about this kind of fact and has these values.
func (f finding) is(kind, kubeadm, kubepki string) bool {
	return strings.HasSuffix(f.about, ": "+kind) && f.kubeadm == kubeadm && f.kubepki == kubepki
}
