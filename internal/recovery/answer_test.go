package recovery_test

import (
	"path"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

const requestDir = "/root/requests"

// keyless is an expired control plane without its CAs' keys, and those CAs with their keys.
func keyless(t *testing.T) (*testpki.Machine, snapshot.Snapshot) {
	m := aged(10 * day)(t)
	cas := m.Files().Snapshot(m.Cluster)
	m.Remove(pkiDir+"/ca.key", pkiDir+"/front-proxy-ca.key", pkiDir+"/etcd/ca.key", etcDir+"/scheduler.conf", pkiDir+"/etcd/peer.crt")
	return m, cas
}

// ask carries out what can be done and writes the requests.
func ask(t *testing.T, m *testpki.Machine, tree *pkidir.Tree) *recovery.Plan {
	t.Helper()
	plan := recovery.MakePlan(recovery.Look(recovery.Disk{Root: m.Root}, recovery.Options{Answers: requestDir}), now)
	if _, err := plan.CarryOut(t.Context(), tree, atomicfile.FS{}, "recover"); err != nil {
		t.Fatal(err)
	}
	changes, err := plan.Requests(t.Context(), requestDir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Commit(t.Context(), pkidir.Commit{Reason: "requests", Changes: changes}); err != nil {
		t.Fatal(err)
	}
	return plan
}

// sign answers every request as the CA does. change may spoil the content.
func sign(t *testing.T, m *testpki.Machine, cas snapshot.Snapshot, plan *recovery.Plan, change func(name string, p *pki.Profile)) {
	t.Helper()
	for _, s := range plan.Requested() {
		e := testpki.Entry(t, s.Name)
		request, err := pki.ParseRequest(m.Read(path.Join(requestDir, s.Name+".csr")))
		if err != nil {
			t.Fatal(err)
		}
		profile := pki.Profile{RawSubject: request.RawSubject, Subject: request.Subject, DNSNames: request.DNSNames, IPAddresses: request.IPAddresses, Usages: e.Usages}
		change(s.Name, &profile)
		ca, err := cas.Authority(e.Issuer)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := ca.Issue(profile, request.PublicKey, pki.ValidFor(now, year))
		if err != nil {
			t.Fatal(err)
		}
		m.Write(path.Join(requestDir, s.Name+".crt"), pki.CertificatesPEM(cert), 0o644)
	}
}

func TestWithoutCAKeysTheSecondRunTakesTheAnswers(t *testing.T) {
	m, cas := keyless(t)
	tree := open(t, m, now)
	plan := ask(t, m, tree)
	sign(t, m, cas, plan, func(string, *pki.Profile) {})
	options := recovery.Options{Answers: requestDir}
	second := recovery.MakePlan(recovery.Look(recovery.Disk{Root: m.Root}, options), now)
	if len(second.Requested()) > 0 || second.Refused() != nil {
		t.Fatalf("the answers are not taken: %v%s", second.Refused(), describe(second))
	}
	if _, err := second.CarryOut(t.Context(), tree, atomicfile.FS{}, "recover"); err != nil {
		t.Fatal(err)
	}
	checkUsable(t, m, broken{}, false)
	if third := recovery.MakePlan(recovery.Look(recovery.Disk{Root: m.Root}, options), now); !third.Nothing() {
		t.Errorf("there is still something to do: %s", describe(third))
	}
}

func TestRequestsThatSomebodyMayBeSigningStay(t *testing.T) {
	m, _ := keyless(t)
	tree := open(t, m, now)
	ask(t, m, tree)
	before := m.Read(requestDir + "/apiserver.key")
	m.Remove(requestDir + "/admin.conf.csr")
	m.Remove(requestDir + "/admin.conf.key")
	ask(t, m, tree)
	if string(m.Read(requestDir+"/apiserver.key")) != string(before) {
		t.Error("apiserver.key was replaced")
	}
	if len(m.Read(requestDir+"/admin.conf.csr")) == 0 {
		t.Error("the request that was lost is not made again")
	}
}

func TestAnswersThatDoNotFitAreLeft(t *testing.T) {
	m, cas := keyless(t)
	tree := open(t, m, now)
	plan := ask(t, m, tree)
	sign(t, m, cas, plan, func(name string, p *pki.Profile) {
		switch name {
		case layout.NameEtcdServer:
			p.DNSNames = []string{"cp1"}
		case "apiserver-kubelet-client":
			p.Usages = nil
		}
	})
	m.Write(requestDir+"/etcd-healthcheck-client.key", m.Read(requestDir+"/admin.conf.key"), 0o600)
	m.Write(requestDir+"/front-proxy-client.crt", []byte("no certificate\n"), 0o644)
	second := recovery.MakePlan(recovery.Look(recovery.Disk{Root: m.Root}, recovery.Options{Answers: requestDir}), now)
	want := map[string]recovery.Reason{
		layout.NameEtcdServer: recovery.MissingSAN, "apiserver-kubelet-client": recovery.MissingUsage,
		"etcd-healthcheck-client": recovery.KeyMismatch, "front-proxy-client": recovery.Unreadable,
	}
	for _, s := range second.Requested() {
		reason, expected := want[s.Name]
		if !expected {
			t.Errorf("%s is not taken: %v", s.Name, s.Notes)
			continue
		}
		if !strings.Contains(strings.Join(s.Notes, "\n"), string(reason)) {
			t.Errorf("%s: notes %q do not say %s", s.Name, s.Notes, reason)
		}
		delete(want, s.Name)
	}
	if len(want) > 0 {
		t.Errorf("taken although of no use: %v", want)
	}
}
