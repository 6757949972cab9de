package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/pki"
)

// csrSchema names the form of what "kubepki csr" prints as JSON, which may only grow.
const csrSchema = "kubepki.io/v1"

// Review is the verdict on one request, as printed with -o json.
type Review struct {
	SchemaVersion string `json:"schemaVersion"`
	csr.Decision
	// Served is what the node serves now, where a request for a serving certificate is in a cluster.
	Served *ServedNow `json:"served,omitempty"`
}

// review puts a decision into the form in which it is shown, with the risks of the content.
func review(r *certificatesv1.CertificateSigningRequest, d csr.Decision) Review {
	for _, risk := range csr.Risks(r) {
		if !slices.Contains(d.Risks, risk) {
			d.Risks = append(d.Risks, risk)
		}
	}
	return Review{SchemaVersion: csrSchema, Decision: d}
}

type reviewOptions struct {
	clusterFlags
	file    string
	objects []string
	served  []string
	now     string
	live    bool
}

func (a *app) csrReviewCommand() *cobra.Command {
	var o reviewOptions
	cmd := &cobra.Command{
		Use:   "review {NAME... | -f FILE --objects PATH}",
		Short: "Show what the approver thinks of a request, and why",
		Long: `Shows a decoded request, who asks, the evidence for every name and address, risks, and the verdict.

With -f it judges requests from a file against cluster objects from files, without any cluster, by the same function
that the controller uses: test a policy with it before it counts. The request needs spec.username, spec.groups and
metadata.creationTimestamp. Objects are Nodes, Machines, ConfigMaps, Services, EndpointSlices, egress objects and other
CertificateSigningRequests. The exit code is 0 when everything was judged, whatever the verdicts.`,
		Example: `  kubepki csr review csr-8b2br
  kubepki csr review -f request.yaml --objects cluster/ --config policy.yaml -o json
  kubepki csr review -f request.yaml --objects cluster.yaml --served-cert worker-1=served.pem --now 2026-05-01T00:00:00Z`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.file != "" {
				if len(args) > 0 {
					return misuse("-f judges a file; it takes no names")
				}
				return a.reviewFiles(o)
			}
			if len(args) == 0 {
				return misuse("name a request, or a file with -f")
			}
			if len(o.objects) > 0 || len(o.served) > 0 || o.now != "" {
				return misuse("--objects, --served-cert and --now belong to -f")
			}
			return a.reviewCluster(cmd.Context(), o, args)
		},
	}
	o.bind(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&o.file, "filename", "f", "", "`file` with CertificateSigningRequests to judge without a cluster; - is stdin")
	flags.StringArrayVar(&o.objects, "objects", nil, "`file` or folder with the cluster's objects; can be repeated")
	flags.StringArrayVar(&o.served, "served-cert", nil, "`NODE=PEMFILE`: what the node serves now; can be repeated")
	flags.StringVar(&o.now, "now", "", "judge as of this `time`, in RFC 3339 (default: now)")
	flags.BoolVar(&o.live, "live", true, "look at what the node serves now, at the address that its Machine, the inventory or its Node names")
	_ = cmd.MarkFlagFilename("filename")
	_ = cmd.MarkFlagFilename("objects")
	formats(cmd, "text", structured)
	return cmd
}

// reviewFiles judges without a cluster.
func (a *app) reviewFiles(o reviewOptions) error {
	now := a.Now()
	if o.now != "" {
		var err error
		if now, err = time.Parse(time.RFC3339, o.now); err != nil {
			return misuse("--now: %q is not a time such as 2026-05-01T00:00:00Z", o.now)
		}
	}
	c, err := a.configuration(o.config)
	if err != nil {
		return err
	}
	j, err := a.newJudge(c.Approver)
	if err != nil {
		return err
	}
	requests, list, err := a.readRequests(o.file)
	if err != nil {
		return err
	}
	if err := a.addObjects(j.world, o.objects); err != nil {
		return err
	}
	served, err := a.readServed(o.served, c.Approver)
	if err != nil {
		return err
	}
	reviews := make([]Review, 0, len(requests))
	for _, r := range requests {
		node, _ := strings.CutPrefix(r.Spec.Username, nodeUser)
		reviews = append(reviews, review(r, j.decide(r, csr.Observations{Served: served[node]}, now)))
	}
	if a.isText() {
		for i, v := range reviews {
			a.printReview(requests[i], v, i > 0)
		}
		return nil
	}
	if list {
		return a.printStructured(reviews)
	}
	return a.printStructured(reviews[0])
}

// nodeUser begins the user names of nodes.
const nodeUser = "system:node:"

// readRequests reads the requests of a file. list says whether there are several documents, or a List.
func (a *app) readRequests(name string) (requests []*certificatesv1.CertificateSigningRequest, list bool, err error) {
	var data []byte
	if name == "-" {
		if data, err = io.ReadAll(io.LimitReader(a.Stdin, maxObjectsFile+1)); len(data) > maxObjectsFile {
			err = misuse("stdin has more than %d bytes", maxObjectsFile)
		}
	} else {
		data, err = atomicfile.ReadFile(a.path(name), maxObjectsFile)
	}
	if err != nil {
		return nil, false, err
	}
	objects, err := csr.ReadObjects(data)
	if err != nil {
		return nil, false, misuse("%s: %w", name, err)
	}
	for _, o := range objects {
		r, ok := o.(*certificatesv1.CertificateSigningRequest)
		if !ok {
			return nil, false, misuse("%s: holds %s, where CertificateSigningRequests of certificates.k8s.io/v1 are judged", name, kindOf(o))
		}
		requests = append(requests, r)
	}
	list = len(requests) > 1 || holdsList(data)
	if len(requests) == 0 && !list {
		return nil, false, misuse("%s: holds no CertificateSigningRequest", name)
	}
	return requests, list, nil
}

func kindOf(o runtime.Object) string {
	if u, ok := o.(*unstructured.Unstructured); ok {
		return u.GetAPIVersion() + " " + u.GetKind()
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", o), "*")
}

// holdsList says whether there is a Kubernetes List, even of one or none.
func holdsList(data []byte) bool {
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		document, err := documents.Read()
		if err != nil {
			return false
		}
		var head struct{ Kind string }
		if err := sigsyaml.Unmarshal(document, &head); err == nil && strings.HasSuffix(head.Kind, "List") {
			return true
		}
	}
}

// addObjects adds what files and folders hold, in the order of their names.
func (a *app) addObjects(w *csr.World, paths []string) error {
	for _, path := range paths {
		files, err := objectFiles(a.path(path))
		if err != nil {
			return err
		}
		for _, name := range files {
			data, err := atomicfile.ReadFile(name, maxObjectsFile)
			if err != nil {
				return err
			}
			objects, err := csr.ReadObjects(data)
			if err != nil {
				return misuse("%s: %w", name, err)
			}
			for _, o := range objects {
				if _, err := w.Add(o); err != nil {
					return misuse("%s: %w", name, err)
				}
			}
		}
	}
	return nil
}

func objectFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var files []string
	err = filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
			files = append(files, name)
		}
		return err
	})
	return files, err
}

// readServed reads what nodes serve, and the authority that it must come from.
func (a *app) readServed(list []string, p csr.Policy) (map[string]*csr.Served, error) {
	served := map[string]*csr.Served{}
	for _, text := range list {
		node, name, ok := strings.Cut(text, "=")
		if !ok || node == "" || name == "" {
			return nil, misuse("--served-cert %q: want NODE=PEMFILE", text)
		}
		data, err := atomicfile.ReadFile(a.path(name), maxConfiguration)
		if err != nil {
			return nil, err
		}
		chain, err := pki.ParseCertificates(data)
		if err != nil {
			return nil, misuse("%s: %w", name, err)
		}
		if served[node] != nil {
			return nil, misuse("--served-cert: node %s is there twice", node)
		}
		served[node] = &csr.Served{Chain: chain}
	}
	if len(served) == 0 {
		return served, nil
	}
	roots, err := a.readRoots(p.Evidence.ServedCertificate.CAFile)
	for _, s := range served {
		if s.Roots = roots; err != nil {
			s.Error = fmt.Sprintf("the authority of kubelets cannot be read: %v", err)
		}
	}
	if err != nil {
		a.warnf("evidence.servedCertificate.caFile: %v: what nodes serve backs nothing", err)
	}
	return served, nil
}

// reviewCluster judges requests of a cluster by their names.
func (a *app) reviewCluster(ctx context.Context, o reviewOptions, names []string) error {
	client, err := a.client(o.kubeconfig)
	if err != nil {
		return err
	}
	defer client.Close()
	j, requests, _, err := a.clusterJudge(ctx, client, o.clusterFlags)
	if err != nil {
		return err
	}
	var reviews []Review
	var missing []error
	for _, name := range names {
		i := slices.IndexFunc(requests, func(r certificatesv1.CertificateSigningRequest) bool { return r.Name == name })
		if i < 0 {
			missing = append(missing, fmt.Errorf("there is no CertificateSigningRequest %s", name))
			continue
		}
		r := &requests[i]
		var seen csr.Observations
		if o.live {
			seen = a.look(ctx, j, r)
		}
		v := review(r, j.decide(r, seen, a.Now()))
		if o.live {
			v.Served = a.servedNow(ctx, j, r, v.Node)
		}
		reviews = append(reviews, v)
		if a.isText() {
			a.printReview(r, v, len(reviews) > 1)
			a.printServed(v.Served)
		}
	}
	switch {
	case a.isText() || len(reviews) == 0:
	case len(names) == 1:
		missing = append(missing, a.printStructured(reviews[0]))
	default:
		missing = append(missing, a.printStructured(reviews))
	}
	return errors.Join(missing...)
}

// printReview explains a verdict to people.
func (a *app) printReview(r *certificatesv1.CertificateSigningRequest, v Review, further bool) {
	out := a.Stdout
	if further {
		fmt.Fprintln(out)
	}
	w := tabwriter.NewWriter(out, 10, 0, 3, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(w, "%s\t%s\n", name, quoted(value)) }
	row("NAME", r.Name)
	row("SIGNER", r.Spec.SignerName)
	row("REQUESTOR", r.Spec.Username)
	row("GROUPS", strings.Join(r.Spec.Groups, ", "))
	var usages []string
	for _, u := range r.Spec.Usages {
		usages = append(usages, string(u))
	}
	row("USAGES", strings.Join(usages, ", "))
	row("DURATION", wantedDuration(r))
	row("CONDITION", csr.Condition(r))
	req, err := csr.Parse(r.Spec.Request)
	if req != nil {
		row("SUBJECT", subjectText(req))
		row("WANTS", dash(wants(req)))
		row("KEY", string(pki.AlgorithmOf(req.X509.PublicKey))+" "+pki.Fingerprint(req.X509.PublicKey))
	}
	if err != nil {
		row("REQUEST", err.Error())
	}
	if len(v.Risks) > 0 {
		row("RISKS", strings.Join(v.Risks, ", "))
	}
	fmt.Fprintf(w, "VERDICT\t%s\n", a.paint(out, verdictColour(v.Verdict), string(v.Verdict)+" "+v.Reason))
	fmt.Fprintf(w, "\t%s\n", readable(v.Message))
	_ = w.Flush()
	if len(v.Evidence) == 0 {
		return
	}
	fmt.Fprintln(out)
	w = tabwriter.NewWriter(out, 10, 0, 3, ' ', 0)
	fmt.Fprintln(w, "CLAIM\tSOURCE\tTRUST\tOK\tDETAIL")
	for _, e := range v.Evidence {
		ok := "no"
		if e.OK {
			ok = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", quoted(e.Claim), quoted(e.Source), e.Trust, ok, readable(e.Message))
	}
	_ = w.Flush()
}

func verdictColour(v csr.Verdict) colour {
	switch v {
	case csr.Approve:
		return green
	case csr.Deny:
		return red
	default:
		return yellow
	}
}

func subjectText(r *csr.Request) string {
	parts := []string{}
	for _, o := range r.Organizations {
		parts = append(parts, "O="+o)
	}
	return strings.Join(append(parts, "CN="+r.CommonName), ", ")
}

// wants lists the names and addresses of a request.
func wants(r *csr.Request) string {
	list := slices.Clone(r.DNSNames)
	for _, a := range r.Addresses {
		list = append(list, a.String())
	}
	return strings.Join(append(append(list, r.Emails...), r.URIs...), ",")
}
