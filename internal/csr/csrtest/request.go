package csrtest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubepki/kubepki/internal/csr"
)

// request says what a CertificateSigningRequest is like. What is left out is as an honest kubelet makes it.
type request struct {
	Name string `json:"name"` // csr-1
	// Node asks for itself. Bootstrap is the id of a bootstrap token, or "openshift", which asks for Node.
	Node      string `json:"node"`
	Bootstrap string `json:"bootstrap"`
	Client    bool   `json:"client"` // a client certificate; a bootstrapper asks for no other, unless Signer says so

	Signer   string    `json:"signer"`
	Username *string   `json:"username"`
	Groups   *[]string `json:"groups"`
	Usages   *[]string `json:"usages"`

	CN     *string   `json:"cn"`
	Orgs   *[]string `json:"orgs"`
	DNS    []string  `json:"dns"`
	IPs    []string  `json:"ips"`
	Emails []string  `json:"emails"`
	URIs   []string  `json:"uris"`
	// Many adds that many names, n0, n1 …
	Many   int      `json:"many"`
	Key    string   `json:"key"`    // ECDSA P-256; see keys
	Tricks []string `json:"tricks"` // see content and framing

	Age         metav1.Duration `json:"age"` // one minute
	Expiration  *int32          `json:"expirationSeconds"`
	Annotations int             `json:"annotations"` // bytes of it
	Deleting    bool            `json:"deleting"`
	// Conditions are types that are there, with the age of each.
	Conditions map[string]metav1.Duration `json:"conditions"`
	Issued     bool                       `json:"issued"`
}

func (r *request) object() (*certificatesv1.CertificateSigningRequest, error) {
	content, err := r.pem()
	if err != nil {
		return nil, err
	}
	created := Now.Add(-cmp.Or(r.Age.Duration, time.Minute))
	o := &certificatesv1.CertificateSigningRequest{
		TypeMeta:   metav1.TypeMeta{APIVersion: "certificates.k8s.io/v1", Kind: "CertificateSigningRequest"},
		ObjectMeta: metav1.ObjectMeta{Name: cmp.Or(r.Name, "csr-1"), CreationTimestamp: metav1.NewTime(created)},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: content, SignerName: r.signer(), ExpirationSeconds: r.Expiration,
		},
	}
	o.UID = types.UID("uid-" + o.Name)
	o.Spec.Username, o.Spec.Groups = r.requester()
	for _, usage := range r.usages() {
		o.Spec.Usages = append(o.Spec.Usages, certificatesv1.KeyUsage(usage))
	}
	if r.Annotations > 0 {
		o.Annotations = map[string]string{"note": strings.Repeat("x", r.Annotations)}
	}
	if r.Deleting {
		o.DeletionTimestamp, o.Finalizers = &metav1.Time{Time: Now}, []string{"example.com/keep"}
	}
	for kind, age := range r.Conditions {
		o.Status.Conditions = append(o.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.RequestConditionType(kind), Status: corev1.ConditionTrue, Reason: "Test", LastUpdateTime: metav1.NewTime(Now.Add(-age.Duration)),
		})
	}
	if r.Issued {
		o.Status.Certificate = []byte("-----BEGIN CERTIFICATE-----\n")
	}
	return o, nil
}

func (r *request) signer() string {
	switch {
	case r.Signer != "":
		return r.Signer
	case r.Client || r.Bootstrap != "":
		return csr.KubeletClient
	}
	return csr.KubeletServing
}

// requester returns user and groups.
func (r *request) requester() (user string, groups []string) {
	user, groups = "system:node:"+r.Node, []string{"system:nodes", "system:authenticated"}
	switch r.Bootstrap {
	case "":
	case "openshift":
		user = "system:serviceaccount:openshift-machine-config-operator:node-bootstrapper"
		groups = []string{"system:serviceaccounts", "system:serviceaccounts:openshift-machine-config-operator", "system:authenticated"}
	default:
		user = "system:bootstrap:" + r.Bootstrap
		groups = []string{"system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"}
	}
	if r.Username != nil {
		user = *r.Username
	}
	if r.Groups != nil {
		groups = *r.Groups
	}
	return user, groups
}

func (r *request) usages() []string {
	switch {
	case r.Usages != nil:
		return *r.Usages
	case r.signer() == csr.KubeletServing:
		return []string{"digital signature", "server auth"}
	}
	return []string{"digital signature", "client auth"}
}

func (r *request) subject() (cn string, orgs []string) {
	cn, orgs = "system:node:"+r.Node, []string{"system:nodes"}
	if r.CN != nil {
		cn = *r.CN
	}
	if r.Orgs != nil {
		orgs = *r.Orgs
	}
	return cn, orgs
}

func (r *request) names() []string {
	names := slices.Clone(r.DNS)
	for i := range r.Many {
		names = append(names, fmt.Sprintf("n%d.example.com", i))
	}
	return names
}

func (r *request) has(trick string) bool { return slices.Contains(r.Tricks, trick) }
