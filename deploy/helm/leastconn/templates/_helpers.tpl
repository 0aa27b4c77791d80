{{- define "leastconn.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "leastconn.selector" -}}
app.kubernetes.io/name: leastconn
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "leastconn.labels" -}}
{{ include "leastconn.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}
