package cli

import (
	"time"

	"github.com/kubepki/kubepki/internal/external"
)

// signingSchema names the form of Signing; it changes only if a field goes away.
const signingSchema = "kubepki.io/signing/v1"

// Signing is what "certs sign -o json" prints.
type Signing struct {
	SchemaVersion string          `json:"schemaVersion"`
	DryRun        bool            `json:"dryRun"`
	Signed        bool            `json:"signed"`            // all of them, or none
	Archive       string          `json:"archive,omitempty"` // with the certificates
	Requests      []SignedRequest `json:"requests"`
}

// SignedRequest is the outcome for one request.
type SignedRequest struct {
	Path     string             `json:"path"`
	Node     string             `json:"node,omitempty"` // the folder that stands for it
	Name     string             `json:"name,omitempty"`
	CA       string             `json:"ca,omitempty"`
	Problems []external.Problem `json:"problems,omitempty"` // why it is refused
	// What the request asks for.
	Subject     string   `json:"subject,omitempty"`
	DNSNames    []string `json:"dnsNames,omitempty"`
	IPAddresses []string `json:"ipAddresses,omitempty"`
	Extras      []string `json:"extras,omitempty"`
	// The certificate; the serial number is known once it has been signed.
	Certificate    string     `json:"certificate,omitempty"`
	ExpirationDate *time.Time `json:"expirationDate,omitempty"`
	Clamped        bool       `json:"clamped,omitempty"` // it ends with its CA, before the time that was wanted
	Serial         string     `json:"serial,omitempty"`
}

func signingReport(plan *external.Signing, dryRun, signed bool) *Signing {
	r := &Signing{SchemaVersion: signingSchema, DryRun: dryRun, Signed: signed, Requests: []SignedRequest{}}
	for _, step := range plan.Steps {
		s := SignedRequest{
			Path: step.Path, Node: step.Node, Name: step.Entry.Name, CA: step.Entry.Issuer,
			Problems: step.Problems, Extras: step.Extras, Clamped: step.Clamped,
		}
		if request := step.Request; request != nil {
			s.Subject, s.DNSNames = request.Subject.String(), request.DNSNames
			for _, ip := range request.IPAddresses {
				s.IPAddresses = append(s.IPAddresses, ip.String())
			}
		}
		if len(step.Problems) == 0 {
			s.Certificate, s.ExpirationDate = step.Answer, utc(step.Validity.NotAfter)
		}
		if step.Issued != nil {
			s.Serial = serial(step.Issued.SerialNumber)
		}
		r.Requests = append(r.Requests, s)
	}
	return r
}
