package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// The controller logs in as a service account, as in a cluster.
const (
	controllerNamespace = "kubepki"
	controllerAccount   = "kubepki-controller"
	controllerUser      = "system:serviceaccount:" + controllerNamespace + ":" + controllerAccount
)

// servedSigners are the signers that the controller approves and signs for.
var servedSigners = []string{certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName}

// makeAccount makes the service account and gives it rights. They are wide: that the chart's are
// enough is tested elsewhere.
func (b *bench) makeAccount(ctx context.Context) error {
	named := metav1.ObjectMeta{Name: controllerAccount, Namespace: controllerNamespace}
	rule := func(group string, resources []string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: verbs}
	}
	sign := rule(certificatesv1.GroupName, []string{"signers"}, "approve", "sign")
	sign.ResourceNames = servedSigners
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: controllerAccount}, Rules: []rbacv1.PolicyRule{
		rule("*", []string{"*"}, "get", "list", "watch"),
		rule(certificatesv1.GroupName, []string{"certificatesigningrequests/approval", "certificatesigningrequests/status"}, "update", "patch"),
		rule("coordination.k8s.io", []string{"leases"}, "create", "update"),
		rule("*", []string{"events"}, "create", "patch", "update"),
		sign,
	}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: controllerAccount},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: controllerAccount},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: controllerAccount, Namespace: controllerNamespace}},
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: controllerNamespace}}
	if _, err := b.api.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
		return err
	}
	if _, err := b.api.CoreV1().ServiceAccounts(controllerNamespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: named}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if _, err := b.api.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := b.api.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	return err
}

// writeKubeconfig writes one with which the controller logs in.
func (b *bench) writeKubeconfig(ctx context.Context, file string) error {
	hours := int64(6 * 3600)
	token, err := b.api.CoreV1().ServiceAccounts(controllerNamespace).CreateToken(ctx, controllerAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hours}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("token for the controller: %w", err)
	}
	conf := clientcmdapi.NewConfig()
	conf.Clusters["bench"] = &clientcmdapi.Cluster{Server: b.access.Host, CertificateAuthorityData: b.access.CAData}
	conf.AuthInfos["bench"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	conf.Contexts["bench"] = &clientcmdapi.Context{Cluster: "bench", AuthInfo: "bench"}
	conf.CurrentContext = "bench"
	return clientcmd.WriteToFile(*conf, file)
}

// audit is the API server's record of who asked for what.
type audit struct {
	file   string
	offset int64 // of the end, when the record was opened
}

// openAudit begins a record at this moment.
func (b *bench) openAudit() (audit, error) {
	a := audit{file: filepath.Join(b.work, "lab", "audit.log")}
	info, err := os.Stat(a.file)
	if err != nil {
		return a, err
	}
	a.offset = info.Size()
	return a, nil
}

// traffic is how often the controller asked for what, in words such as "update
// certificatesigningrequests/approval".
type traffic map[string]int

// sum adds up what has one of the verbs. Leases are left aside: the leader renews its own every two
// seconds, whatever there is to do.
func (t traffic) sum(verbs ...string) int {
	total := 0
	for what, times := range t {
		verb, resource, _ := strings.Cut(what, " ")
		if slices.Contains(verbs, verb) && resource != "leases" {
			total += times
		}
	}
	return total
}

// String lists everything, the most frequent first.
func (t traffic) String() string {
	var words []string
	for _, what := range slices.SortedFunc(maps.Keys(t), func(a, b string) int { return cmp.Or(t[b]-t[a], strings.Compare(a, b)) }) {
		words = append(words, fmt.Sprintf("%d %s", t[what], what))
	}
	return strings.Join(words, ", ")
}

// count returns what the controller has asked for since the record was opened; of requests only those
// of this round, as the end of an earlier one may be noted late.
func (a audit) count(round string) (traffic, error) {
	file, err := os.Open(a.file)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if _, err := file.Seek(a.offset, io.SeekStart); err != nil {
		return nil, err
	}
	found := traffic{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e auditEntry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("%s: %w", a.file, err)
		}
		if e.counts(round) {
			found[e.String()]++
		}
	}
	return found, lines.Err()
}

// auditEntry is the part of an entry that matters here.
type auditEntry struct {
	Stage     string
	Verb      string
	User      struct{ Username string }
	ObjectRef struct{ Resource, Subresource, Name string }
}

func (e auditEntry) counts(round string) bool {
	// A watch is noted when it begins, everything else when it is over.
	stage := "ResponseComplete"
	if e.Verb == "watch" {
		stage = "ResponseStarted"
	}
	ours, _ := splitName(e.ObjectRef.Name)
	isOther := e.ObjectRef.Resource == "certificatesigningrequests" && e.ObjectRef.Name != "" && ours != round
	return e.User.Username == controllerUser && e.Stage == stage && !isOther
}

func (e auditEntry) String() string {
	what := e.Verb + " " + e.ObjectRef.Resource
	if e.ObjectRef.Subresource != "" {
		what += "/" + e.ObjectRef.Subresource
	}
	return what
}
