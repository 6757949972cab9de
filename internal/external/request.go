package external

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Requests is a plan to make keys and signing requests for entries of a cluster.
type Requests struct {
	Steps   []RequestStep
	cluster layout.Cluster
	bundle  []byte // ca.crt, empty when it is not there
}

// RequestStep is the request for one entry.
type RequestStep struct {
	Entry   layout.Entry
	Profile pki.Profile // what is asked for; usages are left to the CA
	Server  string      // URL in the partial kubeconfig
}

// ConflictError lists files that are there and that new keys and requests would replace.
type ConflictError struct{ Paths []string }

func (e *ConflictError) Error() string {
	return "make keys and requests: these exist and are not replaced: " + strings.Join(e.Paths, ", ")
}

// PlanRequests decides what to ask for, from the configuration alone: no certificate that
// may exist is looked at. Files in the way make it fail with *ConflictError, which names
// them all.
func PlanRequests(s snapshot.Snapshot, entries []layout.Entry) (*Requests, error) {
	plan := &Requests{cluster: s.Cluster}
	if err := conflicts(s, entries); err != nil {
		return nil, err
	}
	var errs []error
	for _, e := range entries {
		step, err := planRequest(s.Cluster, e)
		errs = append(errs, err)
		plan.Steps = append(plan.Steps, step)
	}
	ca, _ := layout.Find(layout.NameCA)
	switch bundle, err := s.Certificates(ca); {
	case err == nil:
		plan.bundle = pki.CertificatesPEM(bundle...)
	case !isAbsent(err):
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return plan, nil
}

func planRequest(c layout.Cluster, e layout.Entry) (RequestStep, error) {
	step := RequestStep{Entry: e}
	var err error
	if step.Profile, err = c.Profile(e); err != nil {
		return step, err
	}
	switch {
	case e.Kind != layout.Kubeconfig:
	case e.Name == layout.NameKubelet:
		// As in kubeadm: it is made for nodes that join, too.
		step.Server, err = c.SharedServer(e.Name)
	default:
		step.Server, err = c.Server(e)
	}
	return step, err
}

// conflicts looks for every file that a request would replace. A key beside a kubeconfig
// is none of kubepki's, but somebody may be using it for a request.
func conflicts(s snapshot.Snapshot, entries []layout.Entry) error {
	var found []string
	for _, e := range entries {
		paths := []string{s.Cluster.KeyPath(e), s.Cluster.RequestPath(e)}
		if e.Kind == layout.Kubeconfig {
			paths = append(paths, s.Cluster.KeyPath(e)+keyExt)
		}
		for _, path := range paths {
			if s.Exists(path) {
				found = append(found, path)
			}
		}
	}
	if len(found) > 0 {
		return &ConflictError{found}
	}
	return nil
}

// Make generates the keys in parallel and returns the files to write: for a certificate
// its key and request, for a kubeconfig the file with the key inside and the request.
func (p *Requests) Make(ctx context.Context) ([]pkidir.Change, error) {
	algorithms := make([]pki.Algorithm, len(p.Steps))
	for i := range algorithms {
		algorithms[i] = p.cluster.Algorithm
	}
	keys, err := pki.GenerateKeys(ctx, algorithms)
	if err != nil {
		return nil, err
	}
	var changes []pkidir.Change
	for i, step := range p.Steps {
		made, err := p.files(step, keys[i])
		if err != nil {
			return nil, fmt.Errorf("request for %s: %w", step.Entry.Name, err)
		}
		changes = append(changes, made...)
	}
	return changes, nil
}

func (p *Requests) files(step RequestStep, key *pki.Key) ([]pkidir.Change, error) {
	request, err := pki.NewRequest(step.Profile, key)
	if err != nil {
		return nil, err
	}
	private, err := key.PEM()
	if err != nil {
		return nil, err
	}
	if step.Entry.Kind == layout.Kubeconfig {
		private = kubeconfig.New(kubeconfig.Spec{
			ClusterName:          p.cluster.Name,
			Server:               step.Server,
			CertificateAuthority: p.bundle,
			User:                 step.Profile.Subject.CommonName,
			ClientKey:            private,
		})
	}
	return []pkidir.Change{
		{Path: p.cluster.KeyPath(step.Entry), Data: private, Mode: privateMode, New: true},
		{Path: p.cluster.RequestPath(step.Entry), Data: request, Mode: privateMode, New: true},
	}, nil
}
