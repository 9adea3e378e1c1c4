"""Every public name of gpugrant: API group, labels, annotations, taints, gates, objects.

People, policies, dashboards and other tools rely on these strings; changing one is an API change.
"""

from typing import Final

GROUP: Final = "gpugrant.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

# -- labels that people set ------------------------------------------------------------------------
TENANT_LABEL: Final = "gpugrant.io/tenant"  # on namespaces
PROVIDER_LABEL: Final = "gpugrant.io/provider"  # on namespaces and nodes
FABRIC_LABEL: Final = "gpugrant.io/fabric"  # on nodes, unless the pool names another
PRODUCT_LABEL: Final = "nvidia.com/gpu.product"  # on nodes; GPU Feature Discovery sets it
POD_SECURITY_LABEL: Final = "pod-security.kubernetes.io/enforce"
HOSTNAME_LABEL: Final = "kubernetes.io/hostname"

# -- annotations that people set -------------------------------------------------------------------
MAINTENANCE_ANNOTATION: Final = "gpugrant.io/maintenance"  # on nodes: START/END, RFC 3339
METERING_FINALIZER_ANNOTATION: Final = "gpugrant.io/metering-finalizer"  # on namespaces: "off"
GANG_ANNOTATION: Final = "gpugrant.io/gang"
GANG_SIZE_ANNOTATION: Final = "gpugrant.io/gang-size"

# -- labels the operator writes on servers ---------------------------------------------------------
POOL_LABEL: Final = "gpugrant.io/pool"
SHARE_LABEL: Final = "gpugrant.io/share"
GRANT_UID_LABEL: Final = "gpugrant.io/grant-uid"
SHARED_FOR_LABEL: Final = "gpugrant.io/shared-for"
OWN_USE_LABEL: Final = "gpugrant.io/own-use"
NODE_LABELS: Final = (POOL_LABEL, SHARE_LABEL, GRANT_UID_LABEL, SHARED_FOR_LABEL, OWN_USE_LABEL)
SHARED_FOR_ANYONE: Final = "mixed"
TAINT_VALUE: Final = "present"
TAINT_EFFECT: Final = "NoSchedule"

# -- pods ------------------------------------------------------------------------------------------
GATE: Final = "gpugrant.io/admission"
GPU_LABEL: Final = "gpugrant.io/gpu"
GRANT_LABEL: Final = "gpugrant.io/grant"
WAITING_ANNOTATION: Final = "gpugrant.io/waiting"
GRANT_UID_ANNOTATION: Final = "gpugrant.io/grant-uid"
# Written at release, so that a restarted operator still knows when the bind time-out runs out.
RELEASED_AT_ANNOTATION: Final = "gpugrant.io/released-at"
# Written at release on a member that joins a gang which has already run whole.
REPLACEMENT_ANNOTATION: Final = "gpugrant.io/gang-replacement"
FINALIZER: Final = "gpugrant.io/metering"
RUN_SECONDS_ANNOTATION: Final = "gpugrant.io/run-seconds"  # read by the kwok Stages only

# -- Kubernetes names we read ----------------------------------------------------------------------
DEVICE_CLASS_PREFIX: Final = "deviceclass.resource.kubernetes.io/"
DEFAULT_RESOURCE: Final = "nvidia.com/gpu"

# -- the operator's own objects --------------------------------------------------------------------
SYSTEM_NAMESPACE: Final = "gpugrant-system"
SERVICE_ACCOUNT: Final = "gpugrant"
LEASE: Final = "gpugrant"
SETTINGS_CONFIGMAP: Final = "gpugrant-settings"
SETTINGS_KEY: Final = "settings.yaml"
METRICS_PORT: Final = 8080

POLICY_GATE: Final = "gpugrant-gate"  # mutating: tenants' GPU pods get gate and label
POLICY_FENCE: Final = "gpugrant-fence"  # mutating: a provider's own GPU pods get the own-use fence
POLICY_EXEMPT: Final = "gpugrant-exempt"  # mutating: exempt namespaces' GPU pods get the label
POLICY_GUARD: Final = "gpugrant-guard"  # validating: no GPU pod without the gate; who takes it off
POLICY_TENANT_PODS: Final = "gpugrant-tenant-pods"  # validating: shape of pods in tenants' namespaces
POLICY_REPORTS: Final = "gpugrant-reports"  # validating: closed UsageReports do not change
