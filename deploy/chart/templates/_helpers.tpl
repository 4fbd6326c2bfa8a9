{{- define "troupe.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
{{- define "troupe.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "troupe.agents" -}}
app.kubernetes.io/name: troupe-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "troupe.agentNamespace" -}}
{{ .Values.agents.namespace | default .Release.Namespace }}
{{- end }}
{{- define "troupe.secret" -}}
{{ .Values.secrets.existing | default .Release.Name }}
{{- end }}
{{- define "troupe.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- define "troupe.runnerImage" -}}
{{ .Values.agents.image.repository }}:{{ .Values.agents.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- /* A pod's own address in a URL. */ -}}
{{- define "troupe.podAddress" -}}
{{ if eq .Values.ipFamily "IPv6" }}[$(TROUPE_POD_IP)]{{ else }}$(TROUPE_POD_IP){{ end }}
{{- end }}
{{- /* A setting as text; a whole number without an exponent. */ -}}
{{- define "troupe.plain" -}}
{{ if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}
{{- define "troupe.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}
