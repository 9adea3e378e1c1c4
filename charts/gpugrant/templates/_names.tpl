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

{{- define "gpugrant.claim" -}}
{{- .Values.persistence.existingClaim | default "gpugrant-data" -}}
{{- end }}

{{- /* A CEL list of string literals, sorted, as the operator itself writes it. */ -}}
{{- define "gpugrant.cel-list" -}}
[{{- range $i, $name := (. | uniq | sortAlpha) }}{{ if $i }}, {{ end }}'{{ $name }}'{{ end -}}]
{{- end }}

{{- /* The resource names that the guard of the running cluster knows: an upgrade must not open the gate for them until
the operator looks again. Nothing where no cluster is asked (helm template). JSON, since includes give text. */ -}}
{{- define "gpugrant.live-resources" -}}
{{- $guard := lookup "admissionregistration.k8s.io/v1" "ValidatingAdmissionPolicy" "" "gpugrant-guard" -}}
{{- $found := list -}}
{{- range (dig "spec" "variables" list $guard) -}}
{{- if eq .name "resources" -}}
{{- range (regexFindAll "'[^']+'" .expression -1) -}}
{{- $found = append $found (trimAll "'" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end }}
