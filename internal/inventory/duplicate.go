package inventory

import "github.com/kubepki/kubepki/layout"

// markDuplicates reports what two entries share and should not. The kubelet's kubeconfig
// and its current certificate are one thing in two places.
func markDuplicates(items []Item) {
	type holder struct{ name, file string }
	seen := map[string]holder{}
	for i := range items {
		it := &items[i]
		if it.Index > 0 && it.Kind != CA {
			continue // a chain repeats what stands elsewhere
		}
		me := holder{it.Name, it.Path}
		if it.Kind == KubeletClient {
			me.name = layout.NameKubelet
		}
		serial := ""
		if it.Serial != "" {
			serial = "serial number " + it.Serial + " of issuer " + it.Issuer
		}
		said := false
		for _, shared := range []struct{ what, value string }{
			{"certificate", it.Fingerprint}, {"private key", it.PublicKey}, {"serial number and issuer", serial},
		} {
			if shared.value == "" {
				continue
			}
			key := shared.what + " " + shared.value
			other, taken := seen[key]
			if !taken {
				seen[key] = me
			} else if other.name != me.name && !said {
				it.add(Duplicate, Warning, "has the same %s as %s (%s)", shared.what, other.name, other.file)
				said = true
			}
		}
	}
}
