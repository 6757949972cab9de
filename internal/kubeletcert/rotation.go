package kubeletcert

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// Rotation is what has to be known to give a kubelet another certificate before its time.
type Rotation struct {
	Purpose Purpose
	Node    string
	Current string            // the link to be switched
	Old     *x509.Certificate // what is behind it

	facts *Facts
}

// PlanRotation decides whether one of the certificates can be rotated now. It has to be one
// that the kubelet rotates, in a store that is in order; the client certificate has to be
// valid, since the request is made with it; the serving certificate may have expired.
func (f *Facts) PlanRotation(p Purpose, now time.Time) (*Rotation, error) {
	s := f.Judge(now)
	for _, finding := range s.Findings {
		if finding.Severity == Critical && (finding.Purpose == Client || finding.Purpose == p && finding.Reason != Expired) {
			return nil, fmt.Errorf("%s: %s", finding.Reason, finding.Message)
		}
	}
	state, stored, rotates := s.Client, &f.client, f.Agent.RotateCertificates
	if p == Serving {
		state, stored, rotates = s.Serving, &f.server, f.Agent.ServerTLSBootstrap
	}
	current := stored.pair.file
	switch {
	case !rotates:
		return nil, fmt.Errorf("the kubelet does not rotate its %s certificate", strings.ToLower(string(p)))
	case state.Source != Store || len(stored.pair.chain) == 0:
		return nil, fmt.Errorf("%s is not there: the kubelet has not rotated yet", current)
	case stored.link.kind == linkIsFile:
		return nil, fmt.Errorf("%s is a file where the kubelet wants a link", current)
	}
	return &Rotation{Purpose: p, Node: s.Node, Current: current, Old: stored.pair.chain[0], facts: f}, nil
}

// Outdated says why a rotation must not be carried out any more, going by the one that would be
// planned now: somebody has changed something since. Empty while it holds.
func (r *Rotation) Outdated(now *Rotation) string {
	switch {
	case now.Node != r.Node || now.Current != r.Current:
		return fmt.Sprintf("it is %s of node %s now, and was %s of node %s", now.Current, now.Node, r.Current, r.Node)
	case !now.Old.Equal(r.Old):
		return fmt.Sprintf("%s leads to another certificate now, number %s, valid until %s", r.Current, Serial(now.Old), now.Old.NotAfter.UTC().Format(time.RFC3339))
	}
	return ""
}

// Check says why nobody would accept an issued chain from the kubelet. Whether the certificate
// is what was asked for is not looked at. A serving certificate may be another CA's, if the
// present one is.
func (r *Rotation) Check(chain []*x509.Certificate, now time.Time) error {
	usage, strict := x509.ExtKeyUsageClientAuth, true
	if r.Purpose == Serving {
		usage, strict = x509.ExtKeyUsageServerAuth, pki.IssuerOf(r.Old, r.facts.Authorities) != nil
	}
	if err := pki.Verify(chain, r.facts.Authorities, now, usage); err != nil && strict {
		return err
	}
	if now.After(chain[0].NotAfter) {
		return errors.New("it has expired")
	}
	return nil
}
