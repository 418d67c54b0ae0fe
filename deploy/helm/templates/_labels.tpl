{{- define "abide.selector" -}}
app.kubernetes.io/name: abide
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "abide.labels" -}}
{{ include "abide.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}
