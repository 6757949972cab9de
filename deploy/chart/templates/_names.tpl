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

{{/* A switch of the configuration: what it says, or the default where it is left out or null. */}}
{{- define "kubepki.switch" -}}
{{- $value := get (.in | default dict) .name -}}
{{- kindIs "bool" $value | ternary $value .default -}}
{{- end -}}

{{/* What the program does with this configuration, and so what it needs, by the program's own defaults. --shadow stops signer
and cleaner, approver.shadow the approver alone. */}}
{{- define "kubepki.features" -}}
{{- $approver := .Values.config.approver | default dict -}}
{{- $evidence := $approver.evidence | default dict -}}
{{- $signer := .Values.config.signer | default dict -}}
{{- $approves := list "kubernetes.io/kubelet-serving" "kubernetes.io/kube-apiserver-client-kubelet" -}}
{{- if kindIs "slice" $approver.signers -}}{{- $approves = $approver.signers -}}{{- end -}}
{{- $on := include "kubepki.switch" (dict "in" $approver "name" "enabled" "default" true) | eq "true" -}}
{{- $watches := or .Values.shadow (include "kubepki.switch" (dict "in" $approver "name" "shadow" "default" false) | eq "true") -}}
{{- $signs := include "kubepki.switch" (dict "in" $signer "name" "enabled" "default" false) | eq "true" -}}
{{- $cleans := include "kubepki.switch" (dict "in" .Values.config.cleaner "name" "enabled" "default" false) | eq "true" -}}
approver: {{ $on }}
decides: {{ and $on (not $watches) }}
approves: {{ $approves | toJson }}
machines: {{ include "kubepki.switch" (dict "in" $evidence "name" "machines" "default" true) }}
egressIPs: {{ include "kubepki.switch" (dict "in" $evidence "name" "egressIPs" "default" true) }}
inventoryConfigMap: {{ $evidence.inventoryConfigMap | default "" | quote }}
servedCertificate: {{ include "kubepki.switch" (dict "in" $evidence.servedCertificate "name" "enabled" "default" true) }}
dns: {{ include "kubepki.switch" (dict "in" $evidence.dns "name" "enabled" "default" false) }}
signer: {{ and $signs (not .Values.shadow) }}
signers: {{ $signer.signers | default list | toJson }}
cleaner: {{ and $cleans (not .Values.shadow) }}
{{- end -}}
