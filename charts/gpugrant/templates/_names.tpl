{{- define "gpugrant.selector" -}}
app.kubernetes.io/name: gpugrant
app.kubernetes.io/component: operator
{{- end }}

{{- define "gpugrant.labels" -}}
{{ include "gpugrant.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "gpugrant.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "gpugrant.replicas" -}}
{{- .Values.replicas | default (ternary 2 1 (eq .Values.ledger.store "PostgreSQL")) -}}
{{- end }}

{{- /* Where pods of this chart go, the uninstall's as the operator's: the image may be nowhere else. */ -}}
{{- define "gpugrant.placement" -}}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "gpugrant.claim" -}}
{{- .Values.persistence.existingClaim | default "gpugrant-data" -}}
{{- end }}

{{- /* A CEL list of string literals, sorted, as the operator itself writes it. */ -}}
{{- define "gpugrant.cel-list" -}}
[{{- range $i, $name := (. | uniq | sortAlpha) }}{{ if $i }}, {{ end }}'{{ $name }}'{{ end -}}]
{{- end }}

{{- /* The lists in the guard of the running cluster: an upgrade must not open the gate for a name that a pool has brought,
nor refuse pods of a namespace that the settings exempt, until the operator looks again. Empty where no cluster is asked
(helm template). JSON, since includes give text. */ -}}
{{- define "gpugrant.live" -}}
{{- $spec := (lookup "admissionregistration.k8s.io/v1" "ValidatingAdmissionPolicy" "" "gpugrant-guard").spec | default dict -}}
{{- $found := dict "resources" list "exempt-namespaces" list -}}
{{- range concat ($spec.variables | default list) ($spec.matchConditions | default list) -}}
{{- if hasKey $found .name -}}
{{- $names := list -}}
{{- range regexFindAll "'[^']+'" .expression -1 -}}
{{- $names = append $names (trimAll "'" .) -}}
{{- end -}}
{{- $_ := set $found .name $names -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end }}
