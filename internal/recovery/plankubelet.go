package recovery

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// planKubelet decides on the kubelet's files.
func (p *Plan) planKubelet() {
	k := p.kubelet
	if p.blind(k) {
		return
	}
	p.planClient(k)
	p.planKubeletConf(k)
	p.planServing(k)
}

// blind refuses a node without its CA's certificate, against which nothing of the kubelet's can be
// judged: that is one cause, whatever else looks wrong. Of a control plane the CA itself has been
// refused, with what to do about it.
func (p *Plan) blind(k *kubeletState) bool {
	if len(p.bundles[layout.NameCA]) > 0 || k.client.reason == "" && k.trust.reason == "" && k.conf.reason == "" {
		return false
	}
	if !p.ControlPlane {
		ca, _ := layout.Find(layout.NameCA)
		file := p.Cluster.CertificatePath(ca)
		p.needBundle(file, file+" is not here, or cannot be read")
	}
	return true
}

// needBundle refuses what only a bundle can give a worker: once, however much that is.
func (p *Plan) needBundle(file, detail string) {
	i := slices.IndexFunc(p.Refusals, func(r Refusal) bool { return r.Reason == NeedsBundle })
	if i < 0 {
		p.refuse(NeedsBundle, file, "make a bundle for this worker on a control plane: %s", detail)
		return
	}
	p.Refusals[i].Detail += "; " + detail
}

func (p *Plan) planClient(k *kubeletState) {
	if k.client.reason == "" || k.client.reason == NotAFile {
		return
	}
	current, e := p.Set.Agent.ClientCertificate(), kubeletEntry()
	step := Step{Name: path.Base(current), File: p.datedName(clientPrefix), Reason: k.client.reason, Detail: k.client.detail, entry: e}
	if k.old != nil {
		step.OldSerial = fmt.Sprintf("%x", k.old.SerialNumber)
		if p.now.After(k.old.NotAfter) {
			step.ExpiredSince = k.old.NotAfter
		}
	}
	switch {
	case k.useful != nil && k.dated:
		step.File = k.useful.file
	case k.useful != nil:
		step.Action, step.NotAfter = InstallClient, k.useful.chain[0].NotAfter
		step.note("from %s", k.useful.file)
		p.Steps = append(p.Steps, step)
	case !p.ControlPlane:
		p.needBundle(current, k.client.detail+", and a worker has no CA")
		return
	default:
		if !p.mint(&step, k) {
			return
		}
		p.Steps = append(p.Steps, step)
		if step.Action == Request {
			return
		}
	}
	p.Steps = append(p.Steps, Step{Action: SwitchLink, Name: path.Base(current), File: current, Target: step.File, Reason: k.client.reason, Detail: k.client.detail})
}

func kubeletEntry() layout.Entry {
	e, _ := layout.Find(layout.NameKubelet)
	return e
}

// mint plans the client certificate that the kubelet would have got from the cluster.
func (p *Plan) mint(step *Step, k *kubeletState) bool {
	step.Action, step.Algorithm = MintClient, pki.ECDSAP256 // the kubelet's own choice
	if k.old != nil {
		if a := pki.AlgorithmOf(k.old.PublicKey); !a.Weak() {
			step.Algorithm = a
		}
	}
	var err error
	if step.profile, err = p.Cluster.Profile(step.entry); err != nil {
		return false // refused with the node's name
	}
	if k.replaced {
		step.note("%s, a file where a link should be, is kept in the backup", p.Set.Agent.ClientCertificate())
	}
	if p.external(step.entry.Issuer) {
		step.Action, step.Name = Request, layout.NameKubelet
		step.note("the key of its CA is not here")
		return true
	}
	return p.clamp(step)
}

// datedName is the name of a new file in the kubelet's store. No two files share one.
func (p *Plan) datedName(prefix string) string {
	for t := p.now; ; t = t.Add(time.Second) {
		name := path.Join(p.Set.Agent.CertDir, prefix+t.Format(dateLayout)+".pem")
		if p.kindOf(name) == Missing {
			return name
		}
	}
}

func (p *Plan) planKubeletConf(k *kubeletState) {
	var why []fault
	for _, f := range []fault{k.conf, k.user, k.trust, k.server} {
		if f.reason != "" {
			why = append(why, f)
		}
	}
	if k.conf.reason == NotAFile || len(why) == 0 && !p.embeds(k) {
		return
	}
	if len(why) == 0 {
		why = []fault{faultf(EmbeddedStale, "%s carries its certificate instead of naming the one that the kubelet renews", p.Set.Agent.Kubeconfig)}
	}
	details := make([]string, len(why))
	for i, f := range why {
		details[i] = f.detail
	}
	step := Step{
		Action: RepairKubeletConf, Name: layout.NameKubelet, File: p.Set.Agent.Kubeconfig, Reason: why[0].reason, Detail: strings.Join(details, "; "), entry: kubeletEntry(),
	}
	if k.conf.reason != "" || k.server.reason != "" {
		if !p.kubeletServer(&step) {
			return
		}
	}
	p.Steps = append(p.Steps, step)
}

// embeds says whether the store gets a new certificate while kubelet.conf carries one.
func (p *Plan) embeds(k *kubeletState) bool {
	if k.client.reason == "" || k.file == nil {
		return false
	}
	_, user, err := k.file.Current()
	return err == nil && len(user.ClientCertificateData) > 0
}

// kubeletServer chooses the API server for kubelet.conf: this node's own, or the bundle's.
func (p *Plan) kubeletServer(step *Step) bool {
	if p.bundle != nil {
		step.server = p.bundle.Server
		return true
	}
	if !p.ControlPlane {
		p.needBundle(step.File, step.Detail+", and nothing here says where the API server is")
		return false
	}
	server, err := p.Cluster.Server(step.entry)
	if err != nil && p.Cluster.ControlPlaneEndpoint != "" {
		server, err = p.Cluster.SharedServer(step.entry.Name)
	}
	if err != nil {
		p.refuse(FactMissing, step.File, "%s has to be made anew: %v", step.File, err)
		return false
	}
	step.server = server
	return true
}

func (p *Plan) planServing(k *kubeletState) {
	name := p.Set.Agent.ServingCertificate()
	step := Step{Name: path.Base(name), File: name, Reason: k.serving.reason, Detail: k.serving.detail, entry: kubeletEntry()}
	if len(k.servingOld) > 0 {
		step.OldSerial = fmt.Sprintf("%x", k.servingOld[0].SerialNumber)
	}
	switch {
	case k.serving.reason == "", k.serving.reason == Custom, k.serving.reason == KubeletAsks, k.serving.reason == NotAFile:
		return
	case len(k.servingOld) == 0:
		step.Action = MoveAway
		// The link may come to lead to another certificate, which a rollback must not touch.
		if target, err := p.files.Readlink(name); err == nil {
			step.File = beside(name, target)
		}
		p.Steps = append(p.Steps, step)
		return
	case !p.ControlPlane || p.external(layout.NameCA):
		return // the kubelet asks the cluster; the finding says so
	}
	step.Action = RenewServing
	step.profile = pki.ProfileOf(k.servingOld[0], true)
	step.Algorithm = pki.ECDSAP256
	if a := pki.AlgorithmOf(k.servingOld[0].PublicKey); !a.Weak() {
		step.Algorithm = a
	}
	if !p.clamp(&step) {
		return
	}
	if p.Set.Agent.ServerTLSBootstrap {
		step.File = p.datedName(serverPrefix)
		p.Steps = append(p.Steps, step, Step{Action: SwitchLink, Name: path.Base(name), File: name, Target: step.File, Reason: step.Reason, Detail: step.Detail})
		return
	}
	p.Steps = append(p.Steps, step)
}
