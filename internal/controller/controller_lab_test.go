package controller_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/pki"
)

// The controller against a real API server, with RBAC and NodeRestriction.
func TestOnARealCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a control plane")
	}
	c := startCluster(t)
	for _, part := range []struct {
		name string
		test func(*testing.T, *cluster)
	}{
		{"fifty new machines get their certificates with nobody's help", fiftyMachines},
		{"what is not its own no node gets", foreign},
		{"a request waits for its Machine, and no longer", waitsForMachine},
		{"of many requests of one node none is left", duplicates},
		{"shadow decides and changes nothing", shadow},
		{"another approver at work", anotherApprover},
		{"an approved request that its signer may not issue fails", failed},
		{"an API server that crashes", crashingServer},
		{"connections that drop", droppedConnections},
		{"an authority is swapped while it signs", swappedAuthority},
		{"a kind of evidence that cannot be read stops nobody else", unreadableMachines},
		{"signing alone, what others approve", signerAlone},
		{"the leader is killed", killedLeader},
		{"the cleaner deletes what it may and nothing else", cleaning},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, c) })
	}
}

func address(third, last int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 20, byte(third), byte(last)})
}

func fiftyMachines(t *testing.T, c *cluster) {
	r := c.run(t, c.access, c.configuration(t))
	ca := parseCA(t, c.lab.Nodes()[0].Path("/etc/kubernetes/pki/ca.crt"))
	const machines = 50
	var wait sync.WaitGroup
	for i := range machines {
		wait.Go(func() {
			node, at := fmt.Sprintf("fleet-%d", i), address(1, i+1)
			c.machine(t, node, at)
			first := clientRequest(t, node+"-client", node)
			send(t, c.asBootstrapper(), first)
			certificate := c.issued(t, first)
			kubelet := c.loginWith(t, first, certificate)
			register(t, kubelet, node, at)
			c.join(t, node)
			serving := servingRequest(t, node+"-serving", node, at)
			send(t, kubelet, serving)
			certificate = c.issued(t, serving)
			if err := pki.Verify([]*x509.Certificate{certificate}, []*x509.Certificate{ca}, time.Now(), x509.ExtKeyUsageServerAuth); err != nil {
				t.Errorf("%s: %v", node, err)
			}
			if err := certificate.VerifyHostname(at.String()); err != nil {
				t.Errorf("%s: %v", node, err)
			}
		})
	}
	wait.Wait()
	for _, want := range []struct{ signer, reason string }{{csr.KubeletClient, csr.ReasonBootstrap}, {csr.KubeletServing, csr.ReasonProven}} {
		labels := map[string]string{"signer": want.signer, "reason": want.reason, "verdict": "Approve", "shadow": "false"}
		if have := r.metric(t, "kubepki_csr_decisions_total", labels); have != fmt.Sprint(machines) {
			t.Errorf("%s: %s approvals are counted, want %d", want.signer, have, machines)
		}
		// What is issued is there before it is counted.
		eventually(t, "all signatures are counted", func() error {
			if have := r.metric(t, "kubepki_csr_signed_total", map[string]string{"signer": want.signer, "result": "issued"}); have != fmt.Sprint(machines) {
				return fmt.Errorf("%s: %s are, want %d", want.signer, have, machines)
			}
			return nil
		})
	}
	// A series that nothing has happened to is there all the same.
	if have := r.metric(t, "kubepki_csr_decisions_total", map[string]string{"signer": csr.KubeletClient, "reason": csr.ReasonForeignMachine, "verdict": "Deny", "shadow": "false"}); have != "0" {
		t.Errorf("a quiet series shows %q", have)
	}
}

func foreign(t *testing.T, c *cluster) {
	c.run(t, c.access, c.configuration(t))
	c.worker(t, "thief", address(2, 1))
	c.worker(t, "victim", address(2, 2))
	for name, request := range map[string]asks{
		"of-another-node":  servingRequest(t, "of-another-node", "thief", address(2, 2)),
		"of-the-services":  servingRequest(t, "of-the-services", "thief", netip.MustParseAddr("10.96.0.1")),
		"of-the-metadata":  servingRequest(t, "of-the-metadata", "thief", netip.MustParseAddr("169.254.169.254")),
		"of-the-apiserver": request(t, "of-the-apiserver", "thief", csr.KubeletServing, certificatesv1.UsageServerAuth, []string{"kubernetes.default.svc"}, address(2, 1)),
	} {
		send(t, c.asNode("thief"), request)
		reason := c.reason(t, name, certificatesv1.CertificateDenied)
		if want := map[bool]string{true: csr.ReasonForeignAddress, false: csr.ReasonVetoed}[name == "of-another-node"]; reason != want {
			t.Errorf("%s is denied for %s, want %s", name, reason, want)
		}
		eventually(t, "an event tells of "+name, func() error {
			events, err := c.api.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "reason=" + reason})
			if err != nil {
				return err
			}
			for _, e := range events.Items {
				if e.InvolvedObject.Name == name && e.Type == corev1.EventTypeWarning {
					return nil
				}
			}
			return fmt.Errorf("there are %d other ones", len(events.Items))
		})
	}
	// Another's name the API server does not even take.
	r := servingRequest(t, "as-another-node", "victim", address(2, 2))
	if _, err := c.asNode("thief").CertificatesV1().CertificateSigningRequests().Create(t.Context(), r.CertificateSigningRequest, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a node asks in another's name: %v", err)
	}
	// It gets what is its own all the same.
	own := servingRequest(t, "its-own", "thief", address(2, 1))
	send(t, c.asNode("thief"), own)
	c.issued(t, own)
}

func waitsForMachine(t *testing.T, c *cluster) {
	r := c.run(t, c.access, c.configuration(t))
	early := clientRequest(t, "early", "late-machine")
	send(t, c.asBootstrapper(), early)
	eventually(t, "it is counted among those that wait", func() error {
		if have := r.metric(t, "kubepki_csr_pending", map[string]string{"signer": csr.KubeletClient, "reason": csr.ReasonMachineMissing}); have != "1" {
			return fmt.Errorf("%s wait", have)
		}
		return nil
	})
	c.machine(t, "late-machine", address(3, 1))
	c.issued(t, early)
	eventually(t, "nothing waits any more", func() error {
		if have := r.metric(t, "kubepki_csr_pending", map[string]string{"signer": csr.KubeletClient, "reason": csr.ReasonMachineMissing}); have != "0" {
			return fmt.Errorf("%s wait", have)
		}
		return nil
	})
}

func duplicates(t *testing.T, c *cluster) {
	c.worker(t, "twice", address(12, 1))
	var all []asks
	for i := range 4 {
		r := servingRequest(t, fmt.Sprintf("twice-%d", i), "twice", address(12, 1))
		send(t, c.asNode("twice"), r)
		all = append(all, r)
	}
	c.run(t, c.access, c.configuration(t))
	for _, r := range all {
		c.issued(t, r)
	}
}

func shadow(t *testing.T, c *cluster) {
	c.worker(t, "shadowed", address(4, 1))
	conf := c.configuration(t)
	conf.Approver.Shadow, conf.Signer.Enabled = true, false
	r := c.run(t, c.access, conf)
	own, others := servingRequest(t, "shadow-own", "shadowed", address(4, 1)), servingRequest(t, "shadow-foreign", "shadowed", netip.MustParseAddr("10.96.0.1"))
	send(t, c.asNode("shadowed"), others)
	eventually(t, "the denial is counted", func() error {
		if have := r.metric(t, "kubepki_csr_decisions_total", map[string]string{"signer": csr.KubeletServing, "verdict": "Deny", "reason": csr.ReasonVetoed, "shadow": "true"}); have != "1" {
			return fmt.Errorf("%s are", have)
		}
		return nil
	})
	send(t, c.asNode("shadowed"), own)
	eventually(t, "the approval is counted", func() error {
		if have := r.metric(t, "kubepki_csr_decisions_total", map[string]string{"signer": csr.KubeletServing, "verdict": "Approve", "reason": csr.ReasonProven, "shadow": "true"}); have != "1" {
			return fmt.Errorf("%s are", have)
		}
		return nil
	})
	for _, name := range []string{own.Name, others.Name} {
		if have := csr.Condition(c.read(t, name)); have != "Pending" {
			t.Errorf("%s is %s", name, have)
		}
		if err := c.api.CertificatesV1().CertificateSigningRequests().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err) // the next controller would count its verdict
		}
	}
}

func (c *cluster) approve(t *testing.T, name, reason string) error {
	r := c.read(t, name)
	r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: reason})
	_, err := c.api.CertificatesV1().CertificateSigningRequests().UpdateApproval(t.Context(), name, r, metav1.UpdateOptions{})
	return err
}

// overtaker calls before when the controller is about to write its first verdict on a request, and counts the
// verdicts that it writes.
type overtaker struct {
	http.RoundTripper
	before func(name string)

	mu     sync.Mutex
	writes map[string]int // by request
}

func (o *overtaker) RoundTrip(r *http.Request) (*http.Response, error) {
	path, isVerdict := strings.CutSuffix(r.URL.Path, "/approval")
	if name := path[strings.LastIndexByte(path, '/')+1:]; isVerdict && r.Method == http.MethodPut {
		o.mu.Lock()
		o.writes[name]++
		first := o.writes[name] == 1
		o.mu.Unlock()
		if first {
			o.before(name)
		}
	}
	return o.RoundTripper.RoundTrip(r)
}

// approvals are what the controller counts of serving requests, and of its own work.
func (r *running) approvals(t *testing.T) (map[string]int, error) {
	t.Helper()
	counts := map[string]int{}
	for _, one := range []struct {
		what, metric string
		labels       map[string]string
	}{
		{"approved", "kubepki_csr_decisions_total", map[string]string{"signer": csr.KubeletServing, "verdict": "Approve", "reason": csr.ReasonProven, "shadow": "false"}},
		{"overtaken", "kubepki_csr_overtaken_total", map[string]string{"signer": csr.KubeletServing}},
		{"issued", "kubepki_csr_signed_total", map[string]string{"signer": csr.KubeletServing, "result": "issued"}},
		{"errors", "controller_runtime_reconcile_errors_total", map[string]string{"controller": "approver"}},
		{"errors", "controller_runtime_reconcile_errors_total", map[string]string{"controller": "signer"}},
		{"put off", "controller_runtime_reconcile_total", map[string]string{"controller": "approver", "result": "requeue_after"}},
		{"looked at", "controller_runtime_reconcile_total", map[string]string{"controller": "approver", "result": "success"}},
	} {
		n, err := strconv.Atoi(r.metric(t, one.metric, one.labels))
		if err != nil {
			return nil, fmt.Errorf("%s%v: %w", one.metric, one.labels, err)
		}
		counts[one.what] += n
	}
	return counts, nil
}

func anotherApprover(t *testing.T, c *cluster) {
	const all, byOther = 20, 10
	name := func(i int) string { return fmt.Sprintf("shared-%d", i) }
	theirs := map[string]bool{} // on which the other one is faster
	for i := range byOther {
		theirs[name(2*i)] = true
	}
	wire := &overtaker{writes: map[string]int{}, before: func(name string) {
		if !theirs[name] {
			return
		}
		if err := c.approve(t, name, "Other"); err != nil {
			t.Errorf("the other approver: %s: %v", name, err)
		}
	}}
	access := rest.CopyConfig(c.access)
	access.Wrap(func(next http.RoundTripper) http.RoundTripper {
		wire.RoundTripper = next
		return wire
	})
	r := c.run(t, access, c.configuration(t))
	var before map[string]int
	eventually(t, "all is counted", func() (err error) {
		before, err = r.approvals(t)
		return err
	})
	var wait sync.WaitGroup
	for i := range all {
		wait.Go(func() {
			node, at := name(i), address(5, i+1)
			c.worker(t, node, at)
			request := servingRequest(t, node, node, at)
			send(t, c.asNode(node), request)
			c.issued(t, request) // with one condition, whoever was faster
			want := csr.ReasonProven
			if theirs[node] {
				want = "Other"
			}
			if reason := c.reason(t, node, certificatesv1.CertificateApproved); reason != want {
				t.Errorf("%s is approved with the reason %s, want %s", node, reason, want)
			}
		})
	}
	wait.Wait()
	// What was put off is looked at once more, and left alone.
	var now map[string]int
	eventually(t, "all is looked at again, and counted", func() (err error) {
		now, err = r.approvals(t)
		if err == nil && (now["looked at"]-before["looked at"] < all || now["issued"]-before["issued"] < all) { // without being put off
			err = fmt.Errorf("%v, at the start %v", now, before)
		}
		return err
	})
	for what, want := range map[string]int{"approved": all - byOther, "overtaken": byOther, "issued": all, "errors": 0} {
		if have := now[what] - before[what]; have != want {
			t.Errorf("%s: %d, want %d", what, have, want)
		}
	}
	wire.mu.Lock()
	defer wire.mu.Unlock()
	for i := range all {
		if n := wire.writes[name(i)]; n != 1 {
			t.Errorf("%d verdicts on %s were written", n, name(i))
		}
	}
}

func failed(t *testing.T, c *cluster) {
	c.run(t, c.access, c.configuration(t))
	r := request(t, "misshapen", "any", csr.KubeletServing, certificatesv1.UsageServerAuth, nil)
	send(t, c.as("somebody", "system:masters"), r)
	eventually(t, "it is approved by a person", func() error { return c.approve(t, r.Name, "Person") })
	if reason := c.reason(t, r.Name, certificatesv1.CertificateFailed); reason != "SignerValidationFailure" {
		t.Errorf("it failed for %s", reason)
	}
	have := c.read(t, r.Name)
	if len(have.Status.Certificate) > 0 || have.Status.Conditions[0].Reason != "Person" {
		t.Errorf("certificate of %d bytes, conditions %+v", len(have.Status.Certificate), have.Status.Conditions)
	}
}

func crashingServer(t *testing.T, c *cluster) {
	r := c.run(t, c.access, c.configuration(t))
	var all []asks
	for i := range 30 {
		node := fmt.Sprintf("crash-%d", i)
		c.worker(t, node, address(6, i+1))
		all = append(all, servingRequest(t, node, node, address(6, i+1)))
	}
	for i, one := range all {
		if i == 10 {
			c.killAPIServer(t)
		}
		eventually(t, one.Name+" is sent", func() error {
			_, err := c.asNode(one.Name).CertificatesV1().CertificateSigningRequests().Create(t.Context(), one.CertificateSigningRequest, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				return nil
			}
			return err
		})
	}
	for _, one := range all {
		c.issued(t, one)
	}
	select {
	case err := <-r.done:
		t.Fatalf("the controller ended: %v", err)
	default:
	}
}

func parseCA(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	cas, err := pki.ParseCertificates(readFile(t, file))
	if err != nil {
		t.Fatal(err)
	}
	return cas[0]
}

// newCA returns a CA and its files' content.
func newCA(t *testing.T, name string) (ca *x509.Certificate, cert, key []byte) {
	t.Helper()
	k, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.NewAuthority(name, k, pki.ValidFor(time.Now(), 24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if key, err = k.PEM(); err != nil {
		t.Fatal(err)
	}
	return authority.Certificate, pki.CertificatesPEM(authority.Certificate), key
}

func writeFile(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// connections are those that a client has open.
type connections struct {
	mu   sync.Mutex
	open []net.Conn
}

func (c *connections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.open = append(c.open, conn)
	}
	return conn, err
}

// drop closes all and returns how many there were.
func (c *connections) drop() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := len(c.open)
	for _, conn := range c.open {
		_ = conn.Close() // perhaps it is already
	}
	c.open = nil
	return count
}

// The API server stays, and all watches break: what comes before, meanwhile and after is judged, once.
func droppedConnections(t *testing.T, c *cluster) {
	var wire connections
	access := rest.CopyConfig(c.access)
	access.Dial = wire.dial
	c.run(t, access, c.configuration(t))
	for i := range 5 {
		var sent []asks
		ask := func(when string, last int) {
			node, at := fmt.Sprintf("dropped-%d-%s", i, when), address(20+i, last)
			c.worker(t, node, at)
			r := servingRequest(t, node, node, at)
			send(t, c.asNode(node), r)
			sent = append(sent, r)
		}
		ask("before", 1)
		if wire.drop() == 0 {
			t.Error("nothing was connected")
		}
		ask("after", 2)
		for _, r := range sent {
			c.issued(t, r)
			if conditions := c.read(t, r.Name).Status.Conditions; len(conditions) != 1 {
				t.Errorf("%s: %+v", r.Name, conditions)
			}
		}
	}
}

func swappedAuthority(t *testing.T, c *cluster) {
	dir := t.TempDir()
	oldCA, oldCert, oldKey := newCA(t, "old")
	certFile, keyFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	writeFile(t, certFile, oldCert)
	writeFile(t, keyFile, oldKey)
	conf := c.configuration(t)
	conf.Signer.Signers = []config.SignerProfile{{
		Name: csr.KubeletServing, CertFile: certFile, KeyFile: keyFile, MaxDuration: metav1.Duration{Duration: 2 * time.Hour},
		Trust: config.Trust{ConfigMap: "kube-public/kubelet-serving-ca", ClusterTrustBundle: true},
	}}
	r := c.run(t, c.access, conf)
	c.worker(t, "swapped", address(7, 1))
	issuer := func(name string) *x509.Certificate {
		one := servingRequest(t, name, "swapped", address(7, 1))
		send(t, c.asNode("swapped"), one)
		return c.issued(t, one)
	}
	if leaf := issuer("swap-1"); !pki.SignedBy(leaf, oldCA) || leaf.NotAfter.Sub(leaf.NotBefore) > 2*time.Hour+5*time.Minute {
		t.Errorf("signed by %s until %s", leaf.Issuer, leaf.NotAfter)
	}
	c.published(t, oldCert)

	newOne, newCert, newKey := newCA(t, "new")
	loads := func() string {
		return r.metric(t, "kubepki_csr_authority_reloads_total", map[string]string{"signer": csr.KubeletServing, "result": "loaded"})
	}
	// loaded lets something be written, and waits until the signer has taken it in.
	loaded := func(what string, write func()) {
		t.Helper()
		before := loads()
		write()
		eventually(t, what+" is loaded", func() error {
			if have := loads(); before == "" || have == "" || have == before {
				return fmt.Errorf("loaded %q times, before %q", have, before)
			}
			return nil
		})
	}
	loaded("half of the new pair", func() { writeFile(t, certFile, append(newCert, oldCert...)) })
	if leaf := issuer("swap-2"); !pki.SignedBy(leaf, oldCA) {
		t.Errorf("with half of a new pair, %s signs", leaf.Issuer)
	}
	loaded("the whole of it", func() { writeFile(t, keyFile, newKey) })
	if leaf := issuer("swap-3"); !pki.SignedBy(leaf, newOne) {
		t.Errorf("with the new pair, %s signs", leaf.Issuer)
	}
	c.published(t, append(newCert, oldCert...))
}

// published waits until ConfigMap and ClusterTrustBundle hold a bundle, and no other bundle is left.
func (c *cluster) published(t *testing.T, bundle []byte) {
	t.Helper()
	eventually(t, "the trust is published", func() error {
		m, err := c.api.CoreV1().ConfigMaps("kube-public").Get(t.Context(), "kubelet-serving-ca", metav1.GetOptions{})
		if err != nil || m.Data["ca.crt"] != string(bundle) {
			return errors.Join(errors.New("the ConfigMap does not hold it"), err)
		}
		list, err := c.api.CertificatesV1beta1().ClusterTrustBundles().List(t.Context(), metav1.ListOptions{FieldSelector: "spec.signerName=" + csr.KubeletServing})
		if err != nil || len(list.Items) != 1 || list.Items[0].Spec.TrustBundle != string(bundle) {
			return errors.Join(fmt.Errorf("there are %d bundles", len(list.Items)), err)
		}
		return nil
	})
}

// limited is a user that may do what the controller needs, but not read Machines.
func (c *cluster) limited(t *testing.T) *rest.Config {
	t.Helper()
	roles := c.api.RbacV1()
	all := []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	_, err := roles.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "limited"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"", "discovery.k8s.io", "networking.k8s.io", "certificates.k8s.io", "events.k8s.io", "coordination.k8s.io"}, Resources: []string{"*"}, Verbs: all},
		{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, Verbs: []string{"approve", "sign"}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.bind(t, "limited")
	access := rest.CopyConfig(c.access)
	access.Impersonate = rest.ImpersonationConfig{UserName: "limited", Groups: []string{"system:authenticated"}}
	// A controller that is refused what it cannot do without ends at once.
	eventually(t, "the API server knows the role", func() error {
		_, err := kubernetes.NewForConfigOrDie(access).CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		return err
	})
	return access
}

func (c *cluster) bind(t *testing.T, role string) {
	t.Helper()
	if _, err := c.api.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: role},
		Subjects: []rbacv1.Subject{{APIGroup: "rbac.authorization.k8s.io", Kind: "User", Name: "limited"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func unreadableMachines(t *testing.T, c *cluster) {
	c.worker(t, "listed", address(8, 1))
	c.worker(t, "unlisted", address(8, 2))
	c.worker(t, "weak", address(8, 3))
	conf := c.configuration(t)
	// What Node.status says would be enough here, for a node that nothing else speaks of.
	conf.Approver.Evidence.NodeStatus = csr.NodeStatusSufficient
	conf.Approver.Evidence.Inventory = []csr.InventoryEntry{{Node: "listed", Names: []string{"listed"}, Addresses: []string{address(8, 1).String()}}}
	r := c.run(t, c.limited(t), conf)
	listed, unlisted := servingRequest(t, "listed", "listed", address(8, 1)), servingRequest(t, "unlisted", "unlisted", address(8, 2))
	send(t, c.asNode("unlisted"), unlisted)
	send(t, c.asNode("listed"), listed)
	c.issued(t, listed)
	eventually(t, "the other one waits", func() error {
		if have := r.metric(t, "kubepki_csr_pending", map[string]string{"signer": csr.KubeletServing, "reason": csr.ReasonNoEvidence}); have != "1" {
			return fmt.Errorf("%s wait", have)
		}
		return nil
	})
	if have := csr.Condition(c.read(t, unlisted.Name)); have != "Pending" {
		t.Errorf("without a look at Machines it is %s", have)
	}
	if _, err := c.api.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "machines"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{machines.Group}, Resources: []string{"machines"}, Verbs: []string{"list", "watch"}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.bind(t, "machines")
	c.issued(t, unlisted)
}

func signerAlone(t *testing.T, c *cluster) {
	conf := c.configuration(t)
	conf.Approver.Enabled = false
	c.run(t, c.access, conf)
	c.worker(t, "standalone", address(9, 1))
	r := servingRequest(t, "standalone", "standalone", address(9, 1))
	send(t, c.asNode("standalone"), r)
	eventually(t, "it is approved by a person", func() error { return c.approve(t, r.Name, "Person") })
	c.issued(t, r)
}

func killedLeader(t *testing.T, c *cluster) {
	conf := c.configuration(t)
	text, err := conf.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	writeFile(t, file, text)
	for i := range 20 {
		c.worker(t, fmt.Sprintf("led-%d", i), address(10, i+1))
	}
	first := c.separate(t, file)
	leader := func() string {
		lease, err := c.api.CoordinationV1().Leases("kube-system").Get(t.Context(), "kubepki-controller", metav1.GetOptions{})
		if err != nil || lease.Spec.HolderIdentity == nil {
			return ""
		}
		return *lease.Spec.HolderIdentity
	}
	before := ""
	eventually(t, "one leads", func() error {
		if before = leader(); before == "" {
			return errors.New("nobody does")
		}
		return nil
	})
	c.separate(t, file)
	var all []asks
	for i := range 20 {
		node := fmt.Sprintf("led-%d", i)
		r := servingRequest(t, node, node, address(10, i+1))
		send(t, c.asNode(node), r)
		if all = append(all, r); i == 8 {
			if err := first.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = first.Wait() // from here on it does nothing more
		}
	}
	for _, r := range all {
		c.issued(t, r)
	}
	if after := leader(); after == before {
		t.Errorf("%s leads still", after)
	}
}

func cleaning(t *testing.T, c *cluster) {
	c.worker(t, "cleaned", address(11, 1))
	kept := clientRequest(t, "kept", "nobody-knows")
	send(t, c.asBootstrapper(), kept)
	denied := servingRequest(t, "to-be-denied", "cleaned", netip.MustParseAddr("10.96.0.1"))
	send(t, c.asNode("cleaned"), denied)
	conf := c.configuration(t)
	conf.Cleaner = config.Cleaner{
		Enabled: true, Interval: metav1.Duration{Duration: time.Second}, Denied: metav1.Duration{Duration: time.Millisecond},
		Flood: config.Flood{Threshold: 1000, Superseded: metav1.Duration{Duration: time.Hour}},
	}
	r := c.run(t, c.access, conf)
	eventually(t, "the denied one is gone", func() error {
		_, err := c.api.CertificatesV1().CertificateSigningRequests().Get(t.Context(), denied.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is there"), err)
	})
	if have := csr.Condition(c.read(t, kept.Name)); !strings.HasPrefix(have, "Pending") {
		t.Errorf("the other one is %s", have)
	}
	eventually(t, "the deletion is counted", func() error { // after it is seen
		if have := r.metric(t, "kubepki_csr_cleaned_total", map[string]string{"reason": csr.GarbageDenied}); have == "0" || have == "" {
			return fmt.Errorf("%q are", have)
		}
		return nil
	})
}
