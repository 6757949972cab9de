package kubeletcert

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/yamledit"
	"github.com/kubepki/kubepki/pki"
)

// Feature is a part of rotation that can be switched on and off in a live cluster.
type Feature string

// The features.
const (
	ServingBootstrap Feature = "serving-bootstrap" // the cluster issues the serving certificate
	ClientRotation   Feature = "client-rotation"   // the kubelet renews its client certificate
)

// Features lists them all.
func Features() []Feature { return []Feature{ServingBootstrap, ClientRotation} }

// Field is the field of a KubeletConfiguration that switches the feature.
func (f Feature) Field() string {
	if f == ClientRotation {
		return "rotateCertificates"
	}
	return "serverTLSBootstrap"
}

// MaxConfig is the largest KubeletConfiguration in bytes that is changed.
const MaxConfig = 1 << 20

// Switch returns a KubeletConfiguration with the feature on or off. All but that one value
// stays byte for byte. A field that is not there is off already.
func (f Feature) Switch(config []byte, on bool) ([]byte, error) {
	if len(config) > MaxConfig {
		return nil, fmt.Errorf("larger than %d bytes", MaxConfig)
	}
	d, err := yamledit.Parse(config)
	if err != nil {
		return nil, err
	}
	if kind := yamledit.Child(d.Root(), "kind"); kind != nil && kind.Value != "KubeletConfiguration" {
		return nil, fmt.Errorf("its kind is %q, want KubeletConfiguration", kind.Value)
	}
	if !on && yamledit.Child(d.Root(), f.Field()) == nil {
		return config, nil
	}
	changed, err := d.SetTop(f.Field(), yamledit.Bool(on))
	if err != nil {
		return nil, fmt.Errorf("set %s: %w", f.Field(), err)
	}
	return changed.Bytes(), nil
}

// Against returns the flag that keeps the feature as it is, whatever the configuration says.
func (f Feature) Against(agent component.Agent, on bool) (component.Override, bool) {
	for _, o := range agent.Overrides {
		if o.Field == f.Field() && o.Value != strconv.FormatBool(on) {
			return o, true
		}
	}
	return component.Override{}, false
}

// Embedded says whether kubelet.conf carries a client certificate instead of naming a file.
func (f *Facts) Embedded() bool { return len(f.kubeconfig.user.ClientCertificateData) > 0 }

// Hazard says why a kubelet would not work any more after a feature has been switched; nil
// when it would.
func (f *Facts) Hazard(feature Feature, on bool, now time.Time) error {
	switch {
	case feature == ServingBootstrap && on:
		if gate := f.Agent.RotateServing; gate != nil && !*gate {
			return errors.New("the feature gate RotateKubeletServerCertificate is off: a kubelet with serverTLSBootstrap would not start")
		}
		for _, finding := range f.Judge(now).Findings {
			if finding.Purpose == Client && finding.Severity == Critical {
				return fmt.Errorf("the kubelet could not ask for a certificate: %s: %s", finding.Reason, finding.Message)
			}
		}
	case feature == ClientRotation && !on:
		return f.kubeconfig.usable(now)
	}
	return nil
}

// usable says why a kubelet that does not rotate cannot log in with a kubeconfig.
func (k *kubeconfigFact) usable(now time.Time) error {
	cert := first(k.pair.chain)
	switch {
	case k.err != nil:
		return fmt.Errorf("without rotation the kubelet lives on %s: %w", k.name, k.err)
	case k.pair.file == "": // it logs in with something else
		return nil
	case cert == nil:
		return fmt.Errorf("without rotation the kubelet lives on %s, and there is no certificate in %s", k.name, k.pair.file)
	case k.pair.private == nil || pki.CheckPair(cert, k.pair.private) != nil:
		return fmt.Errorf("without rotation the kubelet lives on %s, which lacks the key of its certificate", k.name)
	case now.After(cert.NotAfter):
		return fmt.Errorf("without rotation the kubelet lives on %s, whose certificate expired on %s", k.name, moment(cert.NotAfter))
	}
	return nil
}
