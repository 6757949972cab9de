package cli

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/kubepki/kubepki/internal/copies"
	"github.com/kubepki/kubepki/internal/pkidir"
)

// kubeconfigSyncSchema names the form of KubeconfigSync; it changes only if a field goes away.
const kubeconfigSyncSchema = "kubepki.io/kubeconfigsync/v1"

// KubeconfigSync is what "kubeconfig sync -o json" prints.
type KubeconfigSync struct {
	SchemaVersion string           `json:"schemaVersion"`
	DryRun        bool             `json:"dryRun"`
	Backup        string           `json:"backup,omitempty"` // for kubepki rollback
	Copies        []KubeconfigCopy `json:"copies"`
}

// Kinds of copies.
const (
	copyInFile   = "File"
	copyInSecret = "Secret"
)

// KubeconfigCopy is the outcome for one user of one kubeconfig.
type KubeconfigCopy struct {
	Kind   string        `json:"kind"` // File or Secret
	Path   string        `json:"path"` // of a Secret: NAMESPACE/NAME:KEY
	User   string        `json:"user,omitempty"`
	Source string        `json:"source,omitempty"`
	Action copies.Action `json:"action"` // in a dry run: what would be done
	Reason copies.Reason `json:"reason,omitempty"`
	Detail string        `json:"detail,omitempty"`
	// The certificate that was there, and that of the source.
	OldSerial string `json:"oldSerial,omitempty"`
	NewSerial string `json:"newSerial,omitempty"`
	// When the certificate ends that is there now.
	ExpirationDate *time.Time `json:"expirationDate,omitempty"`
	Notes          []string   `json:"notes,omitempty"`

	attention bool
}

func (r *KubeconfigSync) needsAttention() bool {
	return slices.ContainsFunc(r.Copies, func(c KubeconfigCopy) bool { return c.attention })
}

func syncReport(plan *copies.Plan, dryRun bool, backup *pkidir.Backup) *KubeconfigSync {
	r := &KubeconfigSync{SchemaVersion: kubeconfigSyncSchema, DryRun: dryRun, Copies: []KubeconfigCopy{}}
	if backup != nil {
		r.Backup = backup.ID
	}
	for _, step := range plan.Steps {
		c := KubeconfigCopy{
			Kind: copyInFile, Path: step.Path, User: step.User, Source: step.Source,
			Action: step.Action, Reason: step.Reason, Detail: step.Detail, Notes: step.Notes,
			attention: step.NeedsAttention(),
		}
		c.certificates(step.Old, step.New)
		r.Copies = append(r.Copies, c)
	}
	return r
}

// certificates fills in what the copy had and what the source has; either may be nil.
func (c *KubeconfigCopy) certificates(old, source *x509.Certificate) {
	holds := source
	if c.Action == copies.Skip {
		holds = old
	}
	if old != nil {
		c.OldSerial = serial(old.SerialNumber)
	}
	if source != nil {
		c.NewSerial = serial(source.SerialNumber)
	}
	if holds != nil {
		c.ExpirationDate = utc(holds.NotAfter)
	}
}

// table writes the report for people.
func (r *KubeconfigSync) table(out io.Writer) error {
	rows := map[string]int{}
	for _, c := range r.Copies {
		rows[c.Path]++
	}
	w := tabwriter.NewWriter(out, 10, 0, 3, ' ', 0)
	fmt.Fprintln(w, "COPY\tWHAT\tREASON\tOLD SERIAL\tNEW SERIAL\tEXPIRES")
	for _, c := range r.Copies {
		name := c.Path
		if rows[c.Path] > 1 {
			name += " (" + c.User + ")"
		}
		expires := "-"
		if c.ExpirationDate != nil {
			expires = day(*c.ExpirationDate)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", name, r.word(c.Action), cmp.Or(c.Reason, "-"),
			cmp.Or(c.OldSerial, "-"), cmp.Or(c.NewSerial, "-"), expires)
	}
	return w.Flush()
}

// word says what was done, or in a dry run is to be done.
func (r *KubeconfigSync) word(a copies.Action) string {
	words := map[copies.Action][2]string{
		copies.Current: {"current", "current"},
		copies.Refresh: {"refreshed", "refresh"},
		copies.Create:  {"created", "create"},
		copies.Merge:   {"merged", "merge"},
		copies.Skip:    {"skipped", "skip"},
	}
	if r.DryRun {
		return words[a][1]
	}
	return words[a][0]
}
