// Package config reads the versioned configuration objects of kubepki's long-running commands. Start with
// Load or LoadNode, which are strict: what they do not know is an error, and what is left out has a default. Marshal
// prints the effective configuration, which they take back.
//
// The package reads no files; what the objects name is opened by their users.
package config

import (
	"errors"
	"fmt"
	"path"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/internal/strictyaml"
)

// The types of the objects that Load and LoadNode read.
const (
	APIVersion     = "kubepki.io/v1alpha1"
	KindController = "ControllerConfiguration"
	KindNode       = "NodeConfiguration"
)

// maxSize bounds a configuration, in bytes.
const maxSize = 1 << 20

// Controller is the configuration of "kubepki controller".
type Controller struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"`
	Approver   csr.Policy `json:"approver"`
	Signer     Signer     `json:"signer"`
	Cleaner    Cleaner    `json:"cleaner"`
}

// Signer issues what is approved.
type Signer struct {
	Enabled bool            `json:"enabled"`
	Signers []SignerProfile `json:"signers"`
}

// SignerProfile is one signer name with its authority.
type SignerProfile struct {
	// Name is one of the four signers of Kubernetes or your own, "domain/name".
	Name string `json:"name"`
	// CertFile and KeyFile are the authority, in PEM. They are watched, and taken over when they change.
	CertFile string `json:"certFile"`
	KeyFile  string `json:"keyFile"`
	// MaxDuration is how long certificates live for which nothing shorter is asked. 0 means 8760h.
	MaxDuration metav1.Duration `json:"maxDuration"`
	Trust       Trust           `json:"trust,omitzero"`
}

// Trust says where the authority's certificate is published.
type Trust struct {
	// ConfigMap is "namespace/name"; the key is ca.crt.
	ConfigMap string `json:"configMap,omitempty"`
	// ClusterTrustBundle publishes a bundle of the signer, where the API has them.
	ClusterTrustBundle bool `json:"clusterTrustBundle,omitempty"`
}

// DefaultDuration is what a signer grants, as kube-controller-manager's --cluster-signing-duration.
const DefaultDuration = 8760 * time.Hour

// Cleaner deletes requests that are of no use any more.
type Cleaner struct {
	Enabled bool `json:"enabled"`
	// Interval is the time between two passes.
	Interval metav1.Duration `json:"interval"`
	// The ages, as in kube-controller-manager, from the condition's time or the request's creation.
	Issued   metav1.Duration `json:"issued"`
	Denied   metav1.Duration `json:"denied"`
	Failed   metav1.Duration `json:"failed"`
	Pending  metav1.Duration `json:"pending"`
	Approved metav1.Duration `json:"approved"`
	Flood    Flood           `json:"flood"`
}

// Flood is what the cleaner does when there are more than Threshold requests: pending ones that a newer one of the
// same requester replaces go after Superseded already, and passes come once a minute.
type Flood struct {
	Threshold  int             `json:"threshold"`
	Superseded metav1.Duration `json:"superseded"`
}

// Default is the configuration of an empty file.
func Default() Controller {
	hours := func(n int) metav1.Duration { return metav1.Duration{Duration: time.Duration(n) * time.Hour} }
	c := Controller{
		APIVersion: APIVersion, Kind: KindController,
		Approver: csr.DefaultPolicy(),
		Cleaner: Cleaner{
			Interval: hours(1), Issued: hours(1), Denied: hours(1), Failed: hours(1), Pending: hours(24), Approved: hours(24),
			Flood: Flood{Threshold: 1000, Superseded: metav1.Duration{Duration: 15 * time.Minute}},
		},
	}
	c.fillLists()
	return c
}

// Load reads one ControllerConfiguration in YAML or JSON. Field names count letter by letter; what is left out or
// null has its default, an empty list is one. Errors name the field by its path.
func Load(data []byte) (*Controller, error) {
	c := Default()
	// A decoder would merge the elements of a list with those that are there.
	a, defaults := &c.Approver, csr.DefaultPolicy()
	a.Signers, a.Keys.Curves, a.Bootstrap.Requesters = nil, nil, nil
	if err := decode(data, KindController, &c); err != nil {
		return nil, err
	}
	orDefault(&a.Signers, defaults.Signers)
	orDefault(&a.Keys.Curves, defaults.Keys.Curves)
	orDefault(&a.Bootstrap.Requesters, defaults.Bootstrap.Requesters)
	c.fillLists()
	if err := c.complete(); err != nil {
		return nil, err
	}
	return &c, nil
}

// decode reads the one document in data, of that kind, onto the defaults in c, a pointer to a struct.
func decode(data []byte, want string, c any) error {
	if len(data) > maxSize {
		return fmt.Errorf("the configuration has more than %d bytes", maxSize)
	}
	value, err := strictyaml.Parse("the configuration", data)
	if err != nil {
		return err
	}
	// What another version holds says less than that it is another one.
	top, _ := value.(map[string]any)
	version, _ := top["apiVersion"].(string)
	kind, _ := top["kind"].(string)
	if version != APIVersion || kind != want {
		return fmt.Errorf("apiVersion %q, kind %q is not %s, %s", version, kind, APIVersion, want)
	}
	return strictyaml.Decode(value, c)
}

func orDefault[T any](list *[]T, fallback []T) {
	if *list == nil {
		*list = fallback
	}
}

// complete fills in what depends on other fields, and says what is wrong.
func (c *Controller) complete() error {
	if _, err := csr.NewDecider(c.Approver); err != nil {
		return fmt.Errorf("approver.%w", err)
	}
	if err := c.Signer.complete(); err != nil {
		return fmt.Errorf("signer.%w", err)
	}
	if err := c.Cleaner.validate(); err != nil {
		return fmt.Errorf("cleaner.%w", err)
	}
	return nil
}

func (s *Signer) complete() error {
	seen := map[string]bool{}
	for i := range s.Signers {
		p := &s.Signers[i]
		if p.MaxDuration.Duration == 0 {
			p.MaxDuration.Duration = DefaultDuration
		}
		if err := csr.CheckSignerName(p.Name); err != nil {
			return fmt.Errorf("signers[%d].name: %w", i, err)
		}
		switch {
		case seen[p.Name]:
			return fmt.Errorf("signers[%d].name: %s is there twice", i, p.Name)
		case p.CertFile == "" || p.KeyFile == "":
			return fmt.Errorf("signers[%d]: %s needs certFile and keyFile", i, p.Name)
		case p.MaxDuration.Duration < 10*time.Minute:
			return fmt.Errorf("signers[%d].maxDuration: %s is below 10m, the least that the API takes", i, p.MaxDuration.Duration)
		case p.Trust.ConfigMap != "" && !csr.IsObjectName(p.Trust.ConfigMap):
			return fmt.Errorf("signers[%d].trust.configMap: %q is not namespace/name", i, p.Trust.ConfigMap)
		}
		seen[p.Name] = true
	}
	if s.Enabled && len(s.Signers) == 0 {
		return errors.New("signers: none is named")
	}
	return nil
}

func (c *Cleaner) validate() error {
	for _, f := range []struct {
		name  string
		value metav1.Duration
		least time.Duration
	}{
		{"interval", c.Interval, time.Second}, {"issued", c.Issued, time.Minute}, {"denied", c.Denied, time.Minute}, {"failed", c.Failed, time.Minute},
		{"pending", c.Pending, time.Minute}, {"approved", c.Approved, time.Minute}, {"flood.superseded", c.Flood.Superseded, time.Minute},
	} {
		if f.value.Duration < f.least {
			return fmt.Errorf("%s: %s is below %s", f.name, f.value.Duration, f.least)
		}
	}
	if c.Flood.Threshold < 1 {
		return fmt.Errorf("flood.threshold: %d is no number of requests", c.Flood.Threshold)
	}
	return nil
}

// Resolve makes the relative names of files start from the folder of the configuration.
func (c *Controller) Resolve(folder string) {
	for _, name := range []*string{&c.Approver.Evidence.InventoryFile, &c.Approver.Evidence.ServedCertificate.CAFile} {
		resolve(folder, name)
	}
	for i := range c.Signer.Signers {
		resolve(folder, &c.Signer.Signers[i].CertFile)
		resolve(folder, &c.Signer.Signers[i].KeyFile)
	}
}

func resolve(folder string, name *string) {
	if *name != "" && !path.IsAbs(*name) {
		*name = path.Join(folder, *name)
	}
}

// Marshal prints the configuration with every field. Lists that are empty are [].
func (c *Controller) Marshal() ([]byte, error) {
	full := *c
	full.fillLists()
	return yaml.Marshal(full)
}

// fillLists makes the lists that are nil empty, so that what is printed and read again is the same.
func (c *Controller) fillLists() {
	a := &c.Approver
	fill(&c.Signer.Signers)
	fill(&a.Keys.Curves)
	fill(&a.Cluster.PodCIDRs)
	fill(&a.Cluster.ServiceCIDRs)
	fill(&a.Cluster.APIServerNames)
	fill(&a.Cluster.APIServerAddresses)
	fill(&a.Evidence.Inventory)
	fill(&a.Bootstrap.Requesters)
	fill(&a.Bootstrap.TokenBindings)
	fill(&a.Rules)
}

func fill[T any](list *[]T) {
	if *list == nil {
		*list = []T{}
	}
}
