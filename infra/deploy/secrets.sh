#!/bin/sh
# Makes the secrets of compose.yaml and of the Kubernetes manifests: random, readable by you alone, and never made twice.
set -eu
cd "$(dirname "$0")"
[ -e secrets ] && { echo "secrets: the folder is there already; remove it to make new ones" >&2; exit 2; }
umask 077
random() { head -c 24 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n'; }
mkdir secrets
printf 'miller:%s' "$(random)" > secrets/auth
for name in prefect mlflow; do
  password=$(random)
  printf '%s' "$password" > "secrets/$name-db-password"
  printf 'postgresql://%s:%s@%s-db/%s' "$name" "$password" "$name" "$name" > "secrets/$name-database"
done
key=$(random) secret=$(random)
printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$key" "$secret" > secrets/aws-credentials
printf '{"identities": [{"name": "gristmill", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": ["Admin", "Read", "List", "Tagging", "Write"]}]}' \
  "$key" "$secret" > secrets/s3.json
printf 'GRISTMILL_UID=%s\nGRISTMILL_GID=%s\n' "$(id -u)" "$(id -g)" > .env
echo "made infra/deploy/secrets; log in as miller with the password in secrets/auth"
