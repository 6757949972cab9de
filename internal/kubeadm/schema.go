package kubeadm

// The kinds of documents that are read.
const (
	kindCluster = "ClusterConfiguration"
	kindInit    = "InitConfiguration"
	kindKubelet = "KubeletConfiguration"
)

// The versions of kubeadm's configuration that are read.
const (
	v1beta3 = "v1beta3"
	v1beta4 = "v1beta4"
)

// content is the type of a value.
type content int

const (
	anything  content = iota // not looked at
	text                     // a string
	number                   // a whole number
	boolean                  // true or false
	duration                 // a string such as "4m0s"
	period                   // a duration of more than zero
	texts                    // a list of strings
	textMap                  // a mapping of strings
	switches                 // a mapping of booleans
	arguments                // flags of a component: a mapping in v1beta3, a list of {name, value} in v1beta4
	list                     // a list of shape.item
	object                   // a mapping with shape.fields
)

// shape describes a value.
type shape struct {
	content content
	fields  fields
	item    *shape
	only    string // the one version that has the field; empty: both
	open    bool   // fields that are not listed are no fault, only those in wrong case
}

type fields map[string]shape

func of(c content) shape      { return shape{content: c} }
func record(f fields) shape   { return shape{content: object, fields: f} }
func listOf(f fields) shape   { item := record(f); return shape{content: list, item: &item} }
func (s shape) since4() shape { s.only = v1beta4; return s }
func (s shape) until3() shape { s.only = v1beta3; return s }
func (f fields) and(more fields) fields {
	for name, s := range more {
		f[name] = s
	}
	return f
}

// schemas describes the documents that are read, by kind.
func schemas() map[string]shape {
	typeMeta := fields{"apiVersion": of(text), "kind": of(text)}
	kubelet := record(kubeletConfiguration().and(typeMeta))
	kubelet.open = true
	return map[string]shape{
		kindCluster: record(clusterConfiguration().and(typeMeta)),
		kindInit:    record(initConfiguration().and(typeMeta)),
		kindKubelet: kubelet,
	}
}

func clusterConfiguration() fields {
	image := func() fields { return fields{"imageRepository": of(text), "imageTag": of(text)} }
	return fields{
		"kubernetesVersion":           of(text),
		"controlPlaneEndpoint":        of(text),
		"certificatesDir":             of(text),
		"imageRepository":             of(text),
		"clusterName":                 of(text),
		"featureGates":                of(switches),
		"encryptionAlgorithm":         of(text).since4(),
		"certificateValidityPeriod":   of(period).since4(),
		"caCertificateValidityPeriod": of(period).since4(),
		"networking": record(fields{
			"serviceSubnet": of(text), "podSubnet": of(text), "dnsDomain": of(text),
		}),
		"apiServer": record(component().and(fields{
			"certSANs": of(texts), "timeoutForControlPlane": of(duration).until3(),
		})),
		"controllerManager": record(component()),
		"scheduler":         record(component()),
		"dns":               record(image().and(fields{"disabled": of(boolean).since4()})),
		"proxy":             record(fields{"disabled": of(boolean)}).since4(),
		"etcd": record(fields{
			"local": record(image().and(fields{
				"dataDir": of(text), "extraArgs": of(arguments), "extraEnvs": environment(),
				"serverCertSANs": of(texts), "peerCertSANs": of(texts),
			})),
			"external": record(fields{
				"endpoints": of(texts), "httpEndpoints": of(texts).since4(),
				"caFile": of(text), "certFile": of(text), "keyFile": of(text),
			}),
		}),
	}
}

func initConfiguration() fields {
	return fields{
		"certificateKey": of(text),
		"dryRun":         of(boolean).since4(),
		"skipPhases":     of(texts),
		"patches":        record(fields{"directory": of(text)}),
		// The ttl is a duration, but no value beside a token is looked at.
		"bootstrapTokens": listOf(fields{
			"token": of(text), "description": of(text), "ttl": of(text), "expires": of(text),
			"usages": of(texts), "groups": of(texts),
		}),
		"localAPIEndpoint": record(fields{"advertiseAddress": of(text), "bindPort": of(number)}),
		"nodeRegistration": record(fields{
			"name": of(text), "criSocket": of(text), "kubeletExtraArgs": of(arguments),
			"ignorePreflightErrors": of(texts), "imagePullPolicy": of(text), "imagePullSerial": of(boolean).since4(),
			"taints": listOf(fields{"key": of(text), "value": of(text), "effect": of(text), "timeAdded": of(text)}),
		}),
		"timeouts": record(fields{
			"controlPlaneComponentHealthCheck": of(duration), "kubeletHealthCheck": of(duration),
			"kubernetesAPICall": of(duration), "etcdAPICall": of(duration), "tlsBootstrap": of(duration),
			"discovery": of(duration), "upgradeManifests": of(duration),
		}).since4(),
	}
}

// component describes what the settings of all control plane components have in common.
func component() fields {
	return fields{
		"extraArgs": of(arguments),
		"extraEnvs": environment(),
		"extraVolumes": listOf(fields{
			"name": of(text), "hostPath": of(text), "mountPath": of(text), "readOnly": of(boolean), "pathType": of(text),
		}),
	}
}

// environment describes variables as in a Pod (core/v1 EnvVar). Their sources are left
// unchecked: they grow with Kubernetes and never bear on certificates.
func environment() shape {
	return listOf(fields{"name": of(text), "value": of(text), "valueFrom": of(anything)}).since4()
}

func kubeletConfiguration() fields {
	open := func(f fields) shape { s := record(f); s.open = true; return s }
	return fields{
		"serverTLSBootstrap": of(boolean),
		"rotateCertificates": of(boolean),
		"tlsCertFile":        of(text),
		"tlsPrivateKeyFile":  of(text),
		"authentication":     open(fields{"x509": open(fields{"clientCAFile": of(text)})}),
	}
}
