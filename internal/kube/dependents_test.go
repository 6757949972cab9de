package kube

import (
	"slices"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	etcdClient = "/etc/kubernetes/pki/apiserver-etcd-client.crt"
	etcdCA     = "/etc/kubernetes/pki/etcd/ca.crt"
	adminConf  = "/etc/kubernetes/admin.conf"
)

func container(name, image string, mounts ...core.VolumeMount) core.Container {
	return core.Container{Name: name, Image: image, VolumeMounts: mounts}
}

func mount(volume, subPath string) core.VolumeMount {
	return core.VolumeMount{Name: volume, SubPath: subPath, MountPath: "/x"}
}

func hostPath(name, path string) core.Volume {
	return core.Volume{Name: name, VolumeSource: core.VolumeSource{HostPath: &core.HostPathVolumeSource{Path: path}}}
}

func TestDependentsAreWhoMountsTheFiles(t *testing.T) {
	one := func(hostDir string) core.PodSpec {
		return core.PodSpec{
			Containers: []core.Container{container("defrag", "example.com/etcd-defrag:v1", mount("pki", ""))},
			Volumes:    []core.Volume{hostPath("pki", hostDir)},
		}
	}
	withSubPath := one("/etc/kubernetes")
	withSubPath.Containers[0].VolumeMounts[0].SubPath = "pki/etcd"
	unmounted := one("/etc/kubernetes/pki")
	unmounted.Containers[0].VolumeMounts = nil
	noHostPath := one("")
	noHostPath.Volumes[0].VolumeSource = core.VolumeSource{Secret: &core.SecretVolumeSource{SecretName: "s"}}
	inInit := one("/etc/kubernetes/pki")
	inInit.InitContainers, inInit.Containers = inInit.Containers, nil
	reloads := one("/etc/kubernetes/pki")
	reloads.Containers[0].Image = "registry.example:5000/enix/x509-certificate-exporter:3@sha256:00"
	sidecar := reloads
	sidecar.Containers = append(slices.Clone(sidecar.Containers), container("other", "other", mount("pki", "")))
	widened := one("/")
	widened.Volumes = append(widened.Volumes, hostPath("narrow", "/etc/kubernetes/pki"))
	widened.Containers[0].VolumeMounts = append(widened.Containers[0].VolumeMounts, mount("narrow", ""))

	for name, c := range map[string]struct {
		pod    core.PodSpec
		files  []string // found of the three
		reason DependentReason
	}{
		"the folder of certificates":             {one("/etc/kubernetes/pki"), []string{etcdClient, etcdCA}, ""},
		"the folder with a slash behind":         {one("/etc/kubernetes/pki/"), []string{etcdClient, etcdCA}, ""},
		"a folder in it":                         {one("/etc/kubernetes/pki/etcd"), []string{etcdCA}, ""},
		"one file":                               {one(etcdClient), []string{etcdClient}, ""},
		"a kubeconfig":                           {one(adminConf), []string{adminConf}, ""},
		"all of /etc/kubernetes":                 {one("/etc/kubernetes"), []string{etcdClient, etcdCA, adminConf}, ""},
		"a part of a volume":                     {withSubPath, []string{etcdCA}, ""},
		"an init container":                      {inInit, []string{etcdClient, etcdCA}, ""},
		"the whole machine":                      {one("/"), []string{etcdClient, etcdCA, adminConf}, WideMount},
		"all of /etc":                            {one("/etc"), []string{etcdClient, etcdCA, adminConf}, WideMount},
		"the whole machine and the certificates": {widened, []string{etcdClient, etcdCA, adminConf}, ""},
		"an exporter that reads them each time":  {reloads, []string{etcdClient, etcdCA}, Reloads},
		"an exporter beside something else":      {sidecar, []string{etcdClient, etcdCA}, ""},
		"a folder with a longer name":            {one("/etc/kubernetes/pki2"), nil, ""},
		"another file of the folder":             {one("/etc/kubernetes/pki/etcd/server.crt"), nil, ""},
		"a volume that no container mounts":      {unmounted, nil, ""},
		"a volume of another kind":               {noHostPath, nil, ""},
		"the log folder":                         {one("/var/log"), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d, ok := dependentOf(c.pod, []string{etcdClient, etcdCA, adminConf})
			if ok != (len(c.files) > 0) || !slices.Equal(d.Files, c.files) || d.Reason != c.reason {
				t.Errorf("got %v %q %q, want %q %q", ok, d.Files, d.Reason, c.files, c.reason)
			}
		})
	}
	if d, _ := dependentOf(sidecar, []string{etcdCA}); strings.Join(d.Containers, " ") != "defrag other" {
		t.Errorf("containers %q", d.Containers)
	}
	custom := one("/var/lib")
	if d, ok := dependentOf(custom, []string{"/var/lib/certs/ca.crt"}); !ok || d.Reason != "" {
		t.Errorf("certificates in a folder of their own: %v %q", ok, d.Reason)
	}
}

func TestWhyADependentIsNotRestarted(t *testing.T) {
	zero, two := int32(0), int32(2)
	seen := apps.DaemonSetStatus{ObservedGeneration: 1}
	for name, c := range map[string]struct{ got, want DependentReason }{
		"a DaemonSet": {daemonSetReason(&apps.DaemonSet{
			ObjectMeta: meta.ObjectMeta{Generation: 1}, Status: apps.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: 3}}), ""},
		"a DaemonSet that nobody has looked at": {daemonSetReason(&apps.DaemonSet{ObjectMeta: meta.ObjectMeta{Generation: 2}, Status: seen}), ""},
		"a DaemonSet that fits no node":         {daemonSetReason(&apps.DaemonSet{ObjectMeta: meta.ObjectMeta{Generation: 1}, Status: seen}), NoPods},
		"a DaemonSet replaced by hand": {daemonSetReason(&apps.DaemonSet{
			Spec: apps.DaemonSetSpec{UpdateStrategy: apps.DaemonSetUpdateStrategy{Type: apps.OnDeleteDaemonSetStrategyType}}}), OnDelete},
		"a Deployment":                {deploymentReason(&apps.Deployment{Spec: apps.DeploymentSpec{Replicas: &two}}), ""},
		"a Deployment of one":         {deploymentReason(&apps.Deployment{}), ""},
		"a Deployment that is paused": {deploymentReason(&apps.Deployment{Spec: apps.DeploymentSpec{Paused: true}}), Paused},
		"a Deployment of none":        {deploymentReason(&apps.Deployment{Spec: apps.DeploymentSpec{Replicas: &zero}}), NoPods},
		"a StatefulSet":               {statefulSetReason(&apps.StatefulSet{}), ""},
		"a StatefulSet of none":       {statefulSetReason(&apps.StatefulSet{Spec: apps.StatefulSetSpec{Replicas: &zero}}), NoPods},
		"a StatefulSet replaced by hand": {statefulSetReason(&apps.StatefulSet{
			Spec: apps.StatefulSetSpec{UpdateStrategy: apps.StatefulSetUpdateStrategy{Type: apps.OnDeleteStatefulSetStrategyType}}}), OnDelete},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", name, c.got, c.want)
		}
	}
}

func TestARolloutIsCompleteWhenEveryPodIsNewAndAvailable(t *testing.T) {
	three := int32(3)
	generation := meta.ObjectMeta{Generation: 7}
	ds := func(observed int64, desired, updated, available int32) string {
		return daemonSetRollout(&apps.DaemonSet{ObjectMeta: generation, Status: apps.DaemonSetStatus{
			ObservedGeneration: observed, DesiredNumberScheduled: desired, UpdatedNumberScheduled: updated, NumberAvailable: available}})
	}
	dep := func(observed int64, total, updated, available int32) string {
		what, err := deploymentRollout(&apps.Deployment{ObjectMeta: generation, Spec: apps.DeploymentSpec{Replicas: &three}, Status: apps.DeploymentStatus{
			ObservedGeneration: observed, Replicas: total, UpdatedReplicas: updated, AvailableReplicas: available}})
		if err != nil {
			t.Error(err)
		}
		return what
	}
	sts := func(observed int64, updated, available int32, done bool, partition int32) string {
		s := &apps.StatefulSet{ObjectMeta: generation, Spec: apps.StatefulSetSpec{Replicas: &three}, Status: apps.StatefulSetStatus{
			ObservedGeneration: observed, UpdatedReplicas: updated, AvailableReplicas: available, CurrentRevision: "a", UpdateRevision: "b"}}
		if done {
			s.Status.CurrentRevision = "b"
		}
		if partition > 0 {
			s.Spec.UpdateStrategy.RollingUpdate = &apps.RollingUpdateStatefulSetStrategy{Partition: &partition}
		}
		return statefulSetRollout(s)
	}
	for name, c := range map[string]struct{ got, want string }{
		"DaemonSet, not observed":                                 {ds(6, 3, 3, 3), notObserved},
		"DaemonSet, one replaced":                                 {ds(7, 3, 1, 3), "1 of 3 pods replaced"},
		"DaemonSet, one not available":                            {ds(7, 3, 3, 2), "2 of 3 pods available"},
		"DaemonSet, complete":                                     {ds(7, 3, 3, 3), ""},
		"DaemonSet without nodes":                                 {ds(7, 0, 0, 0), ""},
		"Deployment, not observed":                                {dep(6, 3, 3, 3), notObserved},
		"Deployment, two replaced":                                {dep(7, 4, 2, 4), "2 of 3 pods replaced"},
		"Deployment, old pods":                                    {dep(7, 4, 3, 4), "1 old pods still to end"},
		"Deployment, one not available":                           {dep(7, 3, 3, 2), "2 of 3 pods available"},
		"Deployment, complete":                                    {dep(7, 3, 3, 3), ""},
		"StatefulSet, not observed":                               {sts(6, 3, 3, true, 0), notObserved},
		"StatefulSet, two replaced":                               {sts(7, 2, 3, false, 0), "2 of 3 pods replaced"},
		"StatefulSet, one not available":                          {sts(7, 3, 2, false, 0), "2 of 3 pods available"},
		"StatefulSet, complete":                                   {sts(7, 0, 3, true, 0), ""},
		"StatefulSet, complete but for those below the partition": {sts(7, 1, 3, false, 2), ""},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", name, c.got, c.want)
		}
	}
	stuck := &apps.Deployment{Status: apps.DeploymentStatus{Conditions: []apps.DeploymentCondition{
		{Type: apps.DeploymentProgressing, Status: core.ConditionFalse, Reason: "ProgressDeadlineExceeded"}}}}
	if _, err := deploymentRollout(stuck); err == nil || !strings.Contains(err.Error(), "ProgressDeadlineExceeded") {
		t.Errorf("a Deployment that has given up: %v", err)
	}
}

func TestImageNames(t *testing.T) {
	for image, want := range map[string]string{
		"etcd": "etcd", "etcd:3.6": "etcd", "registry.example:5000/team/etcd:3.6@sha256:00": "etcd",
		"registry.example:5000/etcd": "etcd", "a/b/c@sha256:00": "c", "": "",
	} {
		if got := imageName(image); got != want {
			t.Errorf("%q: %q, want %q", image, got, want)
		}
	}
}
