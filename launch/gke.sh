#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster that has JobSet: writes the JobSet and hands it to kubectl.
#
#     IMAGE=us-docker.pkg.dev/p/r/nest_tnt:1 launch/gke.sh -- \
#         --config=configs/imagenet_nest.py:tiny --workdir=gs://my-bucket/runs/nest_tiny
#
# Exit codes 1, 2 and 3 of a pod fail the job; so does 74, after the tries of
# launch/again_after_74.sh. All else (75: interrupted, 70: the watchdog, a node that is taken away)
# starts all pods again, at most MAX_RESTARTS times.
# The image: launch/Dockerfile with --build-arg JAX_EXTRA=tpu.
#
# --dry_run   prints the JobSet: launch/gke.sh --dry_run -- ... > jobset.yaml
set -euo pipefail

# Set these:
NAME=${NAME:-nest-tnt}
IMAGE=${IMAGE:-}                           # built from launch/Dockerfile
ACCELERATOR=${ACCELERATOR:-tpu-v5-lite-podslice} # cloud.google.com/gke-tpu-accelerator
TOPOLOGY=${TOPOLOGY:-4x4}                  # of a slice
CHIPS_PER_HOST=${CHIPS_PER_HOST:-4}
# And these, if need be:
SLICES=${SLICES:-1}
SPOT=${SPOT-1} # empty: nodes that are not taken away
SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default} # may write to the bucket
MAX_RESTARTS=${MAX_RESTARTS:-100}
GRACE=${GRACE:-90} # seconds to save before a pod is killed

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$root/launch/lib.sh"

dry_run=${DRY_RUN:-}
while [ $# -gt 0 ]; do
    case $1 in
        --dry_run) dry_run=1 && shift ;;
        --) shift && break ;;
        *) fail "unknown argument $1; usage: launch/gke.sh [--dry_run] -- --config=... --workdir=gs://..." ;;
    esac
done
need NAME '[a-z]([-a-z0-9]*[a-z0-9])?' 'small letters, digits and -, such as nest-tiny'
need IMAGE '[^[:space:]]+' 'the image of the pods, such as us-docker.pkg.dev/PROJECT/REPO/nest_tnt:1'
need ACCELERATOR 'tpu[-a-z0-9]+' 'as GKE names it, such as tpu-v5-lite-podslice'
need TOPOLOGY '[1-9][0-9]*(x[1-9][0-9]*){1,2}' 'of a slice, such as 4x4'
need CHIPS_PER_HOST '[148]' '1, 4 or 8'
need SLICES '[1-9][0-9]*' 'how many slices, such as 1'
need SERVICE_ACCOUNT '[a-z0-9][-.a-z0-9]*' "Kubernetes' name of it"
need MAX_RESTARTS "$number" 'a number, such as 100'
need GRACE "$number" 'seconds, such as 90'
check_train_arguments "$@"
[[ $(workdir_of "$@") == gs://?* ]] || fail "--workdir=$(workdir_of "$@"): a pod's disk goes with it; allowed: gs://BUCKET/FOLDER"
hosts=$((${TOPOLOGY//x/*} / CHIPS_PER_HOST))
[ $((hosts * CHIPS_PER_HOST)) -eq $((${TOPOLOGY//x/*})) ] || fail "TOPOLOGY=$TOPOLOGY: not a multiple of CHIPS_PER_HOST=$CHIPS_PER_HOST"

# Kubernetes gives no name more than 63 letters, a pod's among them.
pod="$NAME-slice-$((SLICES - 1))-$((hosts - 1))-abcde"
[ ${#pod} -le 63 ] || fail "NAME=$NAME: its pods' names would have ${#pod} letters; at most $((63 - ${#pod} + ${#NAME})) fit"

# JSON's texts are YAML's, whatever is in them.
json() {
    local text=$1
    text=${text//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    text=${text//$'\t'/\\t}
    printf '"%s"' "$text"
}

jobset() {
    cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $MAX_RESTARTS
    rules:
      - name: errors
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: $SLICES
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  containerName: train
                  operator: In
                  values: [1, 2, 3, 74]
          template:
            spec:
              restartPolicy: Never
              serviceAccountName: $SERVICE_ACCOUNT
              terminationGracePeriodSeconds: $GRACE
              hostNetwork: true
              dnsPolicy: ClusterFirstWithHostNet
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
                cloud.google.com/gke-tpu-topology: $TOPOLOGY
END
    [ -z "$SPOT" ] || cat <<END
                cloud.google.com/gke-spot: "true"
              tolerations:
                - key: cloud.google.com/gke-spot
                  operator: Equal
                  value: "true"
                  effect: NoSchedule
END
    cat <<END
              volumes:
                - name: shared-memory
                  emptyDir:
                    medium: Memory
              containers:
                - name: train
                  image: $(json "$IMAGE")
                  volumeMounts:
                    - name: shared-memory
                      mountPath: /dev/shm
                  resources:
                    limits:
                      google.com/tpu: $CHIPS_PER_HOST
                  command:
END
    local argument
    for argument in bash launch/again_after_74.sh python train.py "$@" --distributed; do
        # Kubernetes would put variables in place of $(NAME).
        printf '                    - %s\n' "$(json "${argument//\$(/\$\$(}")"
    done
}

if [ -n "$dry_run" ]; then
    jobset "$@"
    exit
fi
command -v kubectl >/dev/null || fail 'kubectl is not installed: gcloud components install kubectl'
jobset "$@" | kubectl apply -f -
say "this follows it: kubectl logs -f job/$NAME-slice-0"
say "this ends it: kubectl delete jobset $NAME"
