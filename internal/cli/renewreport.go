package cli

import (
	"time"

	"github.com/kubepki/kubepki/internal/proof"
	"github.com/kubepki/kubepki/internal/renew"
	"github.com/kubepki/kubepki/internal/restart"
	"github.com/kubepki/kubepki/pki"
)

// renewalSchema names the form of Renewal; it changes only if a field goes away.
const renewalSchema = "kubepki.io/renewal/v1"

// Renewal is what "certs renew -o json" prints.
type Renewal struct {
	SchemaVersion string        `json:"schemaVersion"`
	DryRun        bool          `json:"dryRun"`
	Requests      bool          `json:"requests"`         // --csr-only: nothing was replaced
	Backup        string        `json:"backup,omitempty"` // for kubepki rollback
	Steps         []RenewalStep `json:"steps"`
	// What became of the programs of the node; left out where none runs.
	Restarts   []restart.Done   `json:"restarts,omitempty"`
	Proof      []proof.Result   `json:"proof,omitempty"`
	Dependents []DependentState `json:"dependents,omitempty"`
	RolledBack bool             `json:"rolledBack,omitempty"` // --rollback-on-failure put the old files back
}

// RenewalStep is the outcome for one certificate.
type RenewalStep struct {
	Name    string       `json:"name"`
	Path    string       `json:"path"`
	Renewed bool         `json:"renewed"`          // in a dry run: would be
	Reason  renew.Reason `json:"reason,omitempty"` // why not
	Detail  string       `json:"detail,omitempty"`
	// The existing certificate.
	OldSerial         string     `json:"oldSerial,omitempty"`
	OldExpirationDate *time.Time `json:"oldExpirationDate,omitempty"`
	// The new one; the serial number is known once it has been issued.
	Serial         string        `json:"serial,omitempty"`
	ExpirationDate *time.Time    `json:"expirationDate,omitempty"`
	Algorithm      pki.Algorithm `json:"algorithm,omitempty"`
	Signer         string        `json:"signer,omitempty"` // --use-api: who is asked
	Notes          []string      `json:"notes,omitempty"`
}

func renewalReport(plan *renew.Plan, dryRun bool, done renewal) *Renewal {
	r := &Renewal{SchemaVersion: renewalSchema, DryRun: dryRun, Requests: plan.Options.Requests, Steps: []RenewalStep{}}
	r.Restarts, r.Proof, r.Dependents, r.RolledBack = done.Restarts, done.Results, done.dependents, done.rolledBack
	if done.backup != nil {
		r.Backup = done.backup.ID
	}
	for _, step := range plan.Steps {
		s := RenewalStep{
			Name:    step.Entry.Name,
			Path:    plan.Cluster().CertificatePath(step.Entry),
			Renewed: step.Reason == "" && !plan.Options.Requests,
			Reason:  step.Reason,
			Detail:  step.Detail,
			Signer:  step.Signer,
			Notes:   step.Notes,
		}
		if step.Old != nil {
			s.OldSerial, s.OldExpirationDate = serial(step.Old.SerialNumber), utc(step.Old.NotAfter)
		}
		if step.Reason == "" {
			s.Algorithm = step.Algorithm
			if !plan.Options.Requests && !step.Validity.NotAfter.IsZero() {
				s.ExpirationDate = utc(step.Validity.NotAfter)
			}
		}
		if step.Issued != nil {
			s.Serial = serial(step.Issued.SerialNumber)
		}
		r.Steps = append(r.Steps, s)
	}
	return r
}

func utc(t time.Time) *time.Time {
	t = t.UTC()
	return &t
}
