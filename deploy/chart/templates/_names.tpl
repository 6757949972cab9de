{{- define "kubepki.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- define "kubepki.serviceAccount" -}}
{{- default (include "kubepki.name" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "kubepki.selector" -}}
app.kubernetes.io/name: kubepki
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kubepki.labels" -}}
{{ include "kubepki.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* The configuration as the program reads it. */}}
{{- define "kubepki.configuration" -}}
apiVersion: kubepki.io/v1alpha1
kind: ControllerConfiguration
{{ toYaml .Values.config }}
{{- end -}}

{{/* What the configuration switches on, with the program's defaults. */}}
{{- define "kubepki.features" -}}
{{- $approver := .Values.config.approver | default dict -}}
{{- $evidence := $approver.evidence | default dict -}}
{{- $signer := .Values.config.signer | default dict -}}
{{- $cleaner := .Values.config.cleaner | default dict -}}
approver: {{ hasKey $approver "enabled" | ternary $approver.enabled true }}
deny: {{ hasKey $approver "deny" | ternary $approver.deny true }}
shadow: {{ or .Values.shadow ($approver.shadow | default false) }}
approves: {{ $approver.signers | default (list "kubernetes.io/kubelet-serving" "kubernetes.io/kube-apiserver-client-kubelet") | toJson }}
machines: {{ hasKey $evidence "machines" | ternary $evidence.machines true }}
egressIPs: {{ hasKey $evidence "egressIPs" | ternary $evidence.egressIPs true }}
inventoryConfigMap: {{ $evidence.inventoryConfigMap | default "" | quote }}
servedCertificate: {{ dig "servedCertificate" "enabled" true $evidence }}
dns: {{ dig "dns" "enabled" false $evidence }}
signer: {{ $signer.enabled | default false }}
signers: {{ $signer.signers | default list | toJson }}
cleaner: {{ $cleaner.enabled | default false }}
{{- end -}}
