package kubeletcert

import (
	"fmt"
	"strconv"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/yamledit"
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
