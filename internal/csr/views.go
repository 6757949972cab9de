package csr

import (
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// What rules see. The JSON names are the names in CEL; objects keep the shape they have in Kubernetes,
// cut down to what a World holds, so that a rule sees the same in a cluster and in a review of files.

type requestView struct {
	CommonName         string   `json:"commonName"`
	Organizations      []string `json:"organizations"`
	DNSNames           []string `json:"dnsNames"`
	IPAddresses        []string `json:"ipAddresses"`
	EmailAddresses     []string `json:"emailAddresses"`
	URIs               []string `json:"uris"`
	Node               string   `json:"node"`
	KeyAlgorithm       string   `json:"keyAlgorithm"`
	KeyBits            int      `json:"keyBits"`
	SignatureAlgorithm string   `json:"signatureAlgorithm"`
}

type metadataView struct {
	Name              string            `json:"name"`
	Namespace         string            `json:"namespace"`
	UID               string            `json:"uid"`
	Labels            map[string]string `json:"labels"`
	CreationTimestamp time.Time         `json:"creationTimestamp"`
	DeletionTimestamp time.Time         `json:"deletionTimestamp"`
}

type csrView struct {
	Metadata metadataView `json:"metadata"`
	Spec     csrSpecView  `json:"spec"`
}

type csrSpecView struct {
	SignerName        string   `json:"signerName"`
	Username          string   `json:"username"`
	UID               string   `json:"uid"`
	Groups            []string `json:"groups"`
	Usages            []string `json:"usages"`
	ExpirationSeconds int64    `json:"expirationSeconds"`
}

type nodeView struct {
	Metadata metadataView   `json:"metadata"`
	Spec     nodeSpecView   `json:"spec"`
	Status   nodeStatusView `json:"status"`
}

type nodeSpecView struct {
	ProviderID string `json:"providerID"`
}

type nodeStatusView struct {
	Addresses []addressView `json:"addresses"`
}

type addressView struct {
	Type    string `json:"type"`
	Address string `json:"address"`
}

type machineView struct {
	Metadata metadataView      `json:"metadata"`
	Spec     machineSpecView   `json:"spec"`
	Status   machineStatusView `json:"status"`
}

type machineSpecView struct {
	ProviderID  string `json:"providerID"`
	ClusterName string `json:"clusterName"`
}

type machineStatusView struct {
	Addresses []addressView `json:"addresses"`
	Phase     string        `json:"phase"`
	NodeRef   nodeRefView   `json:"nodeRef"`
}

type nodeRefView struct {
	Name string `json:"name"`
}

type evidenceView struct {
	Claim   string `json:"claim"`
	Source  string `json:"source"`
	Trust   string `json:"trust"`
	OK      bool   `json:"ok"`
	Message string `json:"message"`
}

func viewNode(o *corev1.Node) *nodeView {
	v := &nodeView{
		Metadata: metadataView{Name: o.Name, UID: string(o.UID), Labels: o.Labels, CreationTimestamp: o.CreationTimestamp.Time},
		Spec:     nodeSpecView{o.Spec.ProviderID},
	}
	if o.DeletionTimestamp != nil {
		v.Metadata.DeletionTimestamp = o.DeletionTimestamp.Time
	}
	for i, a := range o.Status.Addresses {
		if i == maxNodeAddresses {
			break
		}
		v.Status.Addresses = append(v.Status.Addresses, addressView{string(a.Type), a.Address})
	}
	return v
}

func viewMachine(o *unstructured.Unstructured, m *machine) *machineView {
	v := &machineView{
		Metadata: metadataView{
			Name: m.name, Namespace: m.namespace, UID: string(o.GetUID()), Labels: o.GetLabels(), CreationTimestamp: m.created,
		},
		Spec:   machineSpecView{m.providerID, m.cluster},
		Status: machineStatusView{Phase: stringAt(o, "status", "phase"), NodeRef: nodeRefView{m.nodeRef}},
	}
	if at := o.GetDeletionTimestamp(); at != nil {
		v.Metadata.DeletionTimestamp = at.Time
	}
	for _, a := range m.addresses {
		v.Status.Addresses = append(v.Status.Addresses, addressView{string(a.kind), a.value})
	}
	return v
}

func viewCSR(r *certificatesv1.CertificateSigningRequest) *csrView {
	v := &csrView{
		Metadata: metadataView{Name: r.Name, UID: string(r.UID), Labels: r.Labels, CreationTimestamp: r.CreationTimestamp.Time},
		Spec: csrSpecView{
			SignerName: r.Spec.SignerName, Username: r.Spec.Username, UID: r.Spec.UID, Groups: slices.Clone(r.Spec.Groups),
		},
	}
	for _, u := range r.Spec.Usages {
		v.Spec.Usages = append(v.Spec.Usages, string(u))
	}
	if s := r.Spec.ExpirationSeconds; s != nil {
		v.Spec.ExpirationSeconds = int64(*s)
	}
	return v
}

func viewRequest(r *Request, node string) *requestView {
	algorithm, bits := keyName(r.X509.PublicKey)
	v := &requestView{
		CommonName: r.CommonName, Organizations: r.Organizations, DNSNames: r.DNSNames, EmailAddresses: r.Emails, URIs: r.URIs,
		Node: node, KeyAlgorithm: algorithm, KeyBits: bits, SignatureAlgorithm: r.X509.SignatureAlgorithm.String(),
	}
	for _, a := range r.Addresses {
		v.IPAddresses = append(v.IPAddresses, a.String())
	}
	return v
}
