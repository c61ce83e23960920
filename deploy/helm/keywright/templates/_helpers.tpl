{{- define "keywright.name" -}}
{{- if contains .Chart.Name .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "keywright.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "keywright.labels" -}}
{{ include "keywright.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "keywright.image" -}}
{{- $i := .Values.image -}}
{{- if $i.digest -}}{{ printf "%s@%s" $i.repository $i.digest }}{{- else -}}{{ printf "%s:%s" $i.repository (default .Chart.AppVersion $i.tag) }}{{- end -}}
{{- end -}}

{{/* The configuration, as deploy/keywright.yaml describes it. Secrets are files: none stands here. */}}
{{- define "keywright.config" -}}
{{- $s := "/run/secrets/keywright" -}}
{{- $c := dict "data" "/var/lib/keywright" "metrics_listen" "0.0.0.0:8201" "listen" (list "0.0.0.0:8200" "unix:/run/keywright/api.sock") -}}
{{- if .Values.proxyProtocol -}}
{{- $_ := set $c "listen" (list (dict "address" "0.0.0.0:8200" "proxy_protocol" true) "unix:/run/keywright/api.sock") -}}
{{- end -}}
{{- with .Values.trustedProxies -}}
{{- $_ := set $c "trusted_proxies" . -}}
{{- end -}}
{{- $tls := dict "cert_file" (printf "%s/tls/tls.crt" $s) "key_file" (printf "%s/tls/tls.key" $s) "min_version" .Values.tls.minVersion -}}
{{- if ne .Values.tls.clientAuth "none" -}}
{{- $_ := set $tls "client_auth" .Values.tls.clientAuth -}}
{{- $_ := set $tls "client_ca_file" (printf "%s/client-ca/ca.pem" $s) -}}
{{- end -}}
{{- $_ := set $c "tls" $tls -}}
{{- if eq .Values.store.kind "postgres" -}}
{{- $url := .Values.store.url -}}
{{- if .Values.store.caSecret.name -}}
{{- $url = printf "%s%ssslrootcert=%s/db-ca/ca.pem" $url (ternary "&" "?" (contains "?" $url)) $s -}}
{{- end -}}
{{- $store := dict "url" $url "password_file" (printf "%s/db/password" $s) "connections" (int .Values.store.connections) -}}
{{- if .Values.store.schema -}}{{- $_ := set $store "schema" .Values.store.schema -}}{{- end -}}
{{- $_ := set $c "store" $store -}}
{{- end -}}
{{- if eq .Values.root.kind "passphrase" -}}
{{- $_ := set $c "root" (dict "passphrase_file" (printf "%s/root/root" $s)) -}}
{{- else if eq .Values.root.kind "key-file" -}}
{{- $_ := set $c "root" (dict "key_file" (printf "%s/root/root" $s)) -}}
{{- else if eq .Values.root.kind "device" -}}
{{- $_ := set $c "root" (dict "device" .Values.root.device) -}}
{{- end -}}
{{- $_ := set $c "backends" .Values.backends -}}
{{- $_ := set $c "log" (dict "format" "json") -}}
{{- toYaml (merge (deepCopy .Values.config) $c) -}}
{{- end -}}

{{/* How to ask a node: by HTTPS, or, where that needs a client certificate, or a header that no kubelet sends, by its own program and its Unix socket. Takes the context, the path, and the flags that stand for it. */}}
{{- define "keywright.ask" -}}
{{- if or (eq .root.Values.tls.clientAuth "required") .root.Values.proxyProtocol -}}
exec: {command: {{ concat (list "/usr/bin/keywright" "health" "--timeout" "4s") .flags | toJson }}}
{{- else -}}
httpGet: {scheme: HTTPS, port: https, path: {{ .path }}}
{{- end -}}
{{- end -}}
