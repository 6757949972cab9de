package copies

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/pkidir"
)

// refresh completes the step of a recognized user and returns the file with the user's new
// credentials, or the same file.
func (d *decider) refresh(step *Step, m *match, c Candidate, file *kubeconfig.File) *kubeconfig.File {
	fail := func(reason Reason, err error) *kubeconfig.File {
		step.Reason, step.Detail = reason, err.Error()
		return file
	}
	if m.newer() {
		return fail(Newer, fmt.Errorf("its certificate is valid until %s, the source's until %s",
			m.chain[0].NotAfter.UTC().Format(time.RFC3339), m.source.chain[0].NotAfter.UTC().Format(time.RFC3339)))
	}
	next, err := d.edit(m, file, step)
	switch {
	case err != nil:
		return fail(NotEditable, err)
	case bytes.Equal(next.Bytes(), file.Bytes()):
		step.Action = Current
		return file
	case c.Fixed != nil:
		return fail(ReadOnly, c.Fixed)
	}
	step.Action = Refresh
	if c.Mode&0o077 != 0 {
		step.Notes = append(step.Notes, fmt.Sprintf("others may read it or write to it: its mode is %04o", c.Mode.Perm()))
	}
	return next
}

// newer says whether the copy is better than the source: whole, from a CA that counts today,
// and good for longer.
func (m *match) newer() bool {
	return m.intact && !m.chain[0].Equal(m.source.chain[0]) && m.chain[0].NotAfter.After(m.source.chain[0].NotAfter) &&
		issued(slices.Concat(m.chain, m.source.chain[1:]), m.source.authorities)
}

// edit puts the source's credentials into a copy of the file.
func (d *decider) edit(m *match, file *kubeconfig.File, step *Step) (*kubeconfig.File, error) {
	next, err := kubeconfig.Parse(file.Bytes())
	if err != nil {
		return nil, err
	}
	cert, key, bundle := m.source.Credentials()
	if !m.intact || !m.chain[0].Equal(m.source.chain[0]) {
		if err := next.SetClientCertificate(m.user.Name, cert, key); err != nil {
			return nil, err
		}
	}
	for _, c := range clustersOf(next, m.user.Name) {
		ours := m.source.owns(c, m.chain)
		switch have := certificates(c.CertificateAuthorityData); {
		case c.CertificateAuthority != "":
			step.Notes = append(step.Notes, fmt.Sprintf("cluster %q refers to a CA file, which stays as it is", c.Name))
		case !ours && len(c.CertificateAuthorityData) > 0:
			step.Notes = append(step.Notes, fmt.Sprintf("cluster %q has another CA and stays as it is", c.Name))
		case ours && !holdsAll(have, certificates(bundle)):
			if err := next.SetCertificateAuthority(c.Name, bundle); err != nil {
				return nil, err
			}
		}
		if d.options.Server != "" && (ours || len(c.CertificateAuthorityData) == 0) {
			if err := next.SetServer(c.Name, d.options.Server); err != nil {
				return nil, err
			}
		}
	}
	return next, nil
}

// owns says whether a cluster of a copy is the source's: its bundle has a CA that the source's
// cluster has or had, or the CA that issued the copy's certificate (chain, may be empty).
func (s *Source) owns(c kubeconfig.Cluster, chain []*x509.Certificate) bool {
	bundle := certificates(c.CertificateAuthorityData)
	for _, ca := range slices.Concat(s.authorities, s.former) {
		if slices.ContainsFunc(bundle, ca.Equal) {
			return true
		}
	}
	return len(chain) > 0 && issued(chain, bundle)
}

// clustersOf returns the clusters that contexts pair a user with.
func clustersOf(file *kubeconfig.File, user string) []kubeconfig.Cluster {
	var names []string
	for _, context := range file.Contexts() {
		if context.Err == nil && context.User == user {
			names = append(names, context.Cluster)
		}
	}
	return slices.DeleteFunc(file.Clusters(), func(c kubeconfig.Cluster) bool { return c.Err != nil || !slices.Contains(names, c.Name) })
}

func holdsAll(have, want []*x509.Certificate) bool {
	return !slices.ContainsFunc(want, func(w *x509.Certificate) bool { return !slices.ContainsFunc(have, w.Equal) })
}

// create makes a sink that is absent or empty.
func (d *decider) create(c Candidate) {
	s := d.sources[0]
	step := Step{Path: c.Path, User: s.user.Name, Source: s.Path, Action: Create, Reason: Sink, New: s.chain[0]}
	file, err := s.forSink(d.options.Server)
	switch {
	case err != nil:
		step.Action, step.Reason, step.Detail = Skip, NotEditable, err.Error()
	case c.Fixed != nil:
		step.Action, step.Reason, step.Detail = Skip, ReadOnly, c.Fixed.Error()
	default:
		made := pkidir.Change{Path: c.Target, Data: file.Bytes(), Mode: 0o600, New: c.Err != nil}
		d.plan.changes = append(d.plan.changes, change{made, c.Data, []string{s.user.Name}})
	}
	d.plan.Steps = append(d.plan.Steps, step)
}

// merge adds the first source to a sink that has other clusters only.
func (d *decider) merge(c Candidate, file *kubeconfig.File) {
	s := d.sources[0]
	step := Step{Path: c.Path, User: s.user.Name, Source: s.Path, Action: Merge, Reason: Sink, New: s.chain[0]}
	source, err := s.forSink(d.options.Server)
	if err == nil {
		err = file.Merge(source)
	}
	var taken *kubeconfig.NameTakenError
	switch {
	case errors.As(err, &taken):
		step.Action, step.Reason, step.Detail = Skip, NameTaken, taken.Error()
	case err != nil:
		step.Action, step.Reason, step.Detail = Skip, NotEditable, err.Error()
	case c.Fixed != nil:
		step.Action, step.Reason, step.Detail = Skip, ReadOnly, c.Fixed.Error()
	default:
		merged := pkidir.Change{Path: c.Target, Data: file.Bytes()}
		d.plan.changes = append(d.plan.changes, change{merged, c.Data, []string{s.user.Name}})
	}
	d.plan.Steps = append(d.plan.Steps, step)
}

// forSink returns the source with another server, if one is wanted.
func (s *Source) forSink(server string) (*kubeconfig.File, error) {
	file, err := kubeconfig.Parse(s.data)
	if err != nil || server == "" {
		return file, err
	}
	return file, file.SetServer(s.cluster.Name, server)
}
