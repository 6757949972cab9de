package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/kubeletcert"
	"github.com/kubepki/kubepki/internal/proof"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/restart"
	"github.com/kubepki/kubepki/layout"
)

// kubeletStatusSchema names the form of KubeletStatus.
const kubeletStatusSchema = "kubepki.io/kubeletstatus/v1"

// KubeletStatus is what "kubelet status -o json" prints.
type KubeletStatus struct {
	SchemaVersion string `json:"schemaVersion"`
	Attention     bool   `json:"attention"` // a finding is a warning or worse
	*kubeletcert.Status
	// Live is absent when nothing but files was looked at; NotLive tells why.
	Live    *KubeletLive `json:"live,omitempty"`
	NotLive string       `json:"notLive,omitempty"`
}

// KubeletLive is what the running kubelet and the API server say.
type KubeletLive struct {
	Login  *proof.Result `json:"login,omitempty"`  // with the client certificate, at the API server
	Served *proof.Result `json:"served,omitempty"` // by the kubelet's port
	// Requests are those of this node that nobody has decided.
	Requests []NodeRequest `json:"requests"`
	// RequestsError says why they could not be read.
	RequestsError string `json:"requestsError,omitempty"`
}

// NodeRequest is a CertificateSigningRequest of this node.
type NodeRequest struct {
	Name       string    `json:"name"`
	SignerName string    `json:"signerName"`
	Created    time.Time `json:"created"`
}

const kubeletStatusLong = `Show the two certificates of this node's kubelet, the one with which it logs in and the one that it
serves: who signed them, how much of their life is over, and when the kubelet is going to rotate them
(between 70 and 90 % of the life) or should have; the links of its store; and the settings and flags
that decide about rotation.

Unless --live=false it also looks at what is in use: it logs in with the client certificate, does a
TLS handshake with the kubelet's port on this machine and compares serial numbers with the files, and
lists the requests of this node that wait for a decision. It changes nothing.

The exit code is 3 when somebody has to do something.`

type kubeletStatusRun struct {
	app        *app
	live       bool
	kubeconfig string
}

func (a *app) kubeletCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "kubelet", Short: "Look at the certificates of this node's kubelet, and switch how it rotates them"}
	cmd.AddCommand(a.kubeletStatusCommand(), a.kubeletEnableCommand(), a.kubeletDisableCommand(), a.kubeletRotateCommand(), a.kubeletRepairCommand())
	return cmd
}

func (a *app) kubeletStatusCommand() *cobra.Command {
	run := &kubeletStatusRun{app: a}
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show the kubelet's certificates, when they rotate, and what stands in the way",
		Long:    kubeletStatusLong,
		Example: "  kubepki kubelet status\n  kubepki kubelet status --live=false -o json\n  kubepki --root /mnt/disk kubelet status",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return run.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&run.live, "live", true, "look at the running kubelet and the API server, too")
	flags.StringVar(&run.kubeconfig, "kubeconfig", "", "kubeconfig `file` to list the node's requests with (default: the kubelet's own)")
	_ = cmd.MarkFlagFilename("kubeconfig")
	formats(cmd, "text", structured)
	return cmd
}

func (r *kubeletStatusRun) run(ctx context.Context) error {
	n, err := r.app.kubeletNode(ctx, toRead)
	if err != nil {
		return err
	}
	defer n.tree.Close()
	status := &KubeletStatus{SchemaVersion: kubeletStatusSchema, Status: n.kubeletFacts().Judge(r.app.Now())}
	switch {
	case !r.live:
		status.NotLive = "not asked for"
	case !n.running():
		status.NotLive = n.why
	default:
		if status.Live, err = r.look(ctx, n, status.Node); err != nil {
			return err
		}
		status.Findings = append(status.Findings, status.Live.findings(r.app.Now())...)
	}
	status.Attention = status.Status.Attention()
	if r.app.isText() {
		err = r.app.printKubelet(status)
	} else {
		err = r.app.printStructured(status)
	}
	if err != nil {
		return err
	}
	if len(n.set.Problems) > 0 {
		return &attentionError{n.problems()}
	}
	if status.Attention {
		return &attentionError{}
	}
	return nil
}

// kubeletNode looks at a machine that must have a kubelet. Close its tree.
func (a *app) kubeletNode(ctx context.Context, want access) (*node, error) {
	seen := recovery.Look(recovery.Disk{Root: a.root}, recovery.Options{})
	if agent := seen.Set.Agent; !agent.Present {
		return nil, withHint(fmt.Errorf("there is no kubelet here: neither %s nor %s", a.path(agent.Config), a.path(agent.Kubeconfig)),
			"run it on a node, or name another machine's files with --root")
	}
	t, err := a.open(ctx, seen.Cluster, want)
	if err != nil {
		return nil, err
	}
	return a.node(t, ""), nil
}

// kubeletFacts reads what the files of a node say about its kubelet.
func (n *node) kubeletFacts() *kubeletcert.Facts {
	ca, _ := layout.Find(layout.NameCA)
	authorities, _ := n.tree.Certificates(ca) // without them nothing is called signed by the cluster's CA
	return kubeletcert.Look(recovery.Disk{Root: n.app.root}, kubeletcert.Options{
		Agent: n.set.Agent, Authorities: authorities, AuthorityFile: n.tree.Cluster.CertificatePath(ca),
	})
}

// look finds out what is in use.
func (r *kubeletStatusRun) look(ctx context.Context, n *node, name string) (*KubeletLive, error) {
	s, err := n.settler(&restartFlags{mode: string(restart.Never)})
	if err != nil {
		return nil, err
	}
	defer s.close()
	results, err := s.lookAtKubelet(ctx, everyCheck, 0)
	if err != nil {
		return nil, err
	}
	live := &KubeletLive{Requests: []NodeRequest{}}
	for i, result := range results {
		if result.File == n.set.Agent.ServingCertificate() {
			live.Served = &results[i]
		} else {
			live.Login = &results[i]
		}
	}
	if live.Requests, err = r.requests(ctx, n, name); err != nil {
		live.RequestsError = err.Error()
	}
	return live, ctx.Err()
}

// lookAtKubelet proves the wanted ones of the kubelet's certificates within wait. Nobody may know
// since when a kubelet runs that reads its client certificate once; whether it is let in is asked
// all the same.
func (s *settler) lookAtKubelet(ctx context.Context, want func(proof.Check) bool, wait time.Duration) ([]proof.Result, error) {
	checks := slices.DeleteFunc(s.checks(nil, time.Time{}), func(c proof.Check) bool { return c.Reader != component.Kubelet || !want(c) })
	results, err := s.look(ctx, checks, wait)
	for i := range results {
		if results[i].Reason != proof.StartUnknown || err != nil {
			continue
		}
		checks[i].Reader = proof.Nobody
		var again []proof.Result
		if again, err = s.look(ctx, checks[i:i+1], 0); err == nil {
			results[i] = again[0]
		}
	}
	return results, err
}

// requests lists what this node has asked for and nobody has decided.
func (r *kubeletStatusRun) requests(ctx context.Context, n *node, name string) ([]NodeRequest, error) {
	ctx, cancel := context.WithTimeout(ctx, kube.DefaultTimeout)
	defer cancel()
	file, read := r.kubeconfig, kube.ReadFunc(r.app.readBounded)
	if file == "" {
		file, read = n.set.Agent.Kubeconfig, n.tree.ReadFile
	}
	client, err := kube.Open(file, kube.Options{Read: read})
	if err != nil {
		return []NodeRequest{}, err
	}
	defer client.Close()
	all, _, err := client.SigningRequests(ctx)
	return waitingFor(nodeUser+name, all), err
}

// waitingFor picks the requests of a user, or about him, that wait for a decision. A node
// that joins asks as its bootstrap token.
func waitingFor(user string, all []certificatesv1.CertificateSigningRequest) []NodeRequest {
	found := []NodeRequest{}
	for i := range all {
		request := &all[i]
		about := request.Spec.Username
		if wanted, err := csr.Parse(request.Spec.Request); err == nil {
			about = wanted.CommonName
		}
		if isPending(request) && (request.Spec.Username == user || about == user) {
			found = append(found, NodeRequest{request.Name, request.Spec.SignerName, request.CreationTimestamp.Time})
		}
	}
	slices.SortFunc(found, func(a, b NodeRequest) int { return a.Created.Compare(b.Created) })
	return found
}

// promptly is how long an approver may take before a request is worth a word.
const promptly = time.Minute

// findings says what asks for attention in what was seen.
func (l *KubeletLive) findings(now time.Time) []kubeletcert.Finding {
	var found []kubeletcert.Finding
	if l.Login != nil && l.Login.Failed() {
		f := kubeletcert.Finding{Reason: kubeletcert.LoginFailed, Severity: kubeletcert.Warning, Purpose: kubeletcert.Client, Message: said(l.Login), Next: "kubepki certs verify"}
		if l.Login.Reason == proof.LoginRefused || l.Login.Reason == proof.WrongIdentity {
			f.Severity, f.Next = kubeletcert.Critical, "kubepki kubelet repair"
		}
		found = append(found, f)
	}
	if l.Served != nil && l.Served.Failed() {
		f := kubeletcert.Finding{Reason: kubeletcert.NotServed, Severity: kubeletcert.Warning, Purpose: kubeletcert.Serving, Message: said(l.Served), Next: "kubepki kubelet repair"}
		if l.Served.Reason == proof.Unreachable {
			f.Next = "look why the kubelet does not run: journalctl -u kubelet"
		}
		found = append(found, f)
	}
	for _, r := range l.Requests {
		if waits := now.Sub(r.Created); waits >= promptly {
			found = append(found, kubeletcert.Finding{
				Reason: kubeletcert.RequestPending, Severity: kubeletcert.Warning,
				Message: fmt.Sprintf("%s for %s has waited %s for a decision", r.Name, r.SignerName, shortDuration(waits)), Next: "kubepki csr review " + r.Name,
			})
		}
	}
	return found
}

func said(r *proof.Result) string { return string(r.Reason) + ": " + r.Detail }
