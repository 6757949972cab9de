package cli

import (
	"time"

	"github.com/kubepki/kubepki/internal/external"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/layout"
)

// importSchema names the form of Import; it changes only if a field goes away.
const importSchema = "kubepki.io/import/v1"

// Import is what "certs import -o json" prints.
type Import struct {
	SchemaVersion string                `json:"schemaVersion"`
	DryRun        bool                  `json:"dryRun"`
	Installed     bool                  `json:"installed"`        // all of them, or none
	Backup        string                `json:"backup,omitempty"` // for kubepki rollback
	Certificates  []ImportedCertificate `json:"certificates"`
	Ignored       []string              `json:"ignored,omitempty"` // certificates with other names
}

// ImportedCertificate is the outcome for one certificate.
type ImportedCertificate struct {
	Name           string             `json:"name"`
	Source         string             `json:"source"`
	Path           string             `json:"path"` // where it belongs
	Problems       []external.Problem `json:"problems,omitempty"`
	Warnings       []external.Problem `json:"warnings,omitempty"`
	InPlace        bool               `json:"inPlace"` // it was there already
	NewKey         bool               `json:"newKey"`  // its key comes along
	Serial         string             `json:"serial,omitempty"`
	ExpirationDate *time.Time         `json:"expirationDate,omitempty"`
}

func importReport(c layout.Cluster, plan *external.Import, dryRun, installed bool, backup *pkidir.Backup) *Import {
	r := &Import{SchemaVersion: importSchema, DryRun: dryRun, Installed: installed, Certificates: []ImportedCertificate{}, Ignored: plan.Ignored}
	if backup != nil {
		r.Backup = backup.ID
	}
	for _, step := range plan.Steps {
		s := ImportedCertificate{
			Name: step.Entry.Name, Source: step.Path, Path: c.CertificatePath(step.Entry),
			Problems: step.Problems, Warnings: step.Warnings, InPlace: step.InPlace, NewKey: step.NewKey,
		}
		if len(step.Chain) > 0 {
			s.Serial, s.ExpirationDate = serial(step.Chain[0].SerialNumber), utc(step.Chain[0].NotAfter)
		}
		r.Certificates = append(r.Certificates, s)
	}
	return r
}
