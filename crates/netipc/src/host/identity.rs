//! Who a cgroup is: recognised by its path, named by the state files of container engines.
//!
//! | path ends in | orchestrator | name and labels from |
//! |---|---|---|
//! | `docker/ID`, `docker-ID.scope` | docker | `/var/lib/docker/containers/ID/config.v2.json` |
//! | `libpod-ID`, `libpod-ID.scope` | podman | `/var/lib/containers/storage/overlay-containers/containers.json` |
//! | `kubepods*/…/ID`, `cri-containerd-ID.scope`, `crio-ID.scope` | k8s | `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log` |
//! | `kubepods*/…podUID`, `…-podUID.slice` | k8s | `/var/log/pods/NAMESPACE_POD_UID` |
//! | `lxc/NAME`, `lxc.payload.NAME`, `lxc.payload/NAME` | lxc | the path |
//! | `machine-qemu\x2dN\x2dNAME.scope`, `qemu.slice/N.scope`, `qemu-N-NAME.libvirt-qemu` | kvm | the path |
//! | `systemd-nspawn@NAME.service`, `machine-NAME.scope` | nspawn | the path |
//! | any other unit: `.service`, `.slice`, `.scope`, `.socket`, `.mount`, `.swap` | systemd | the path |
//!
//! A cgroup inside a container belongs to it: `web/init.scope`. A container whose state file is gone goes by its short
//! id.

use super::{Host, is_transient, or_nothing, read_bounded};
use crate::labels::Orchestrator;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;

/// A state file of an engine, larger than any seen.
const STATE_MAX: u64 = 8 << 20;
/// Directory entries read from `/var/log`, a bound on memory, not a limit anybody meets.
const ENTRIES_MAX: usize = 65_536;
const SHORT_ID: usize = 12;
const ID: usize = 64;

/// One label, key and value.
pub type Label = (Vec<u8>, Vec<u8>);

/// What is known about a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What runs it.
    pub orchestrator: Orchestrator,
    /// The name people know it by.
    pub name: Vec<u8>,
    /// What its orchestrator says about it.
    pub labels: Vec<Label>,
}

/// Names that are spread over directories, read once and good for one scan.
#[derive(Debug, Default)]
pub(super) struct Names {
    podman: HashMap<String, Identity>,
    /// Container id to (pod, namespace, container).
    kube_containers: HashMap<String, [String; 3]>,
    /// Pod uid to (namespace, pod).
    kube_pods: HashMap<String, [String; 2]>,
}

impl Names {
    /// # Errors
    /// This process is out of file descriptors or memory.
    pub(super) fn read(host: &Host) -> io::Result<Self> {
        let mut names = Self { podman: podman(host)?, ..Self::default() };
        for name in file_names(host, "/var/log/containers")? {
            let Some((pod_and_more, id)) = name.strip_suffix(".log").and_then(|stem| stem.rsplit_once('-')) else {
                continue;
            };
            let mut parts = pod_and_more.splitn(3, '_').map(str::to_owned);
            if let (Some(pod), Some(namespace), Some(container)) = (parts.next(), parts.next(), parts.next()) {
                names.kube_containers.insert(id.to_owned(), [pod, namespace, container]);
            }
        }
        for name in file_names(host, "/var/log/pods")? {
            let mut parts = name.splitn(3, '_').map(str::to_owned);
            if let (Some(namespace), Some(pod), Some(uid)) = (parts.next(), parts.next(), parts.next()) {
                names.kube_pods.insert(uid, [namespace, pod]);
            }
        }
        Ok(names)
    }

    /// Identifies the cgroup at `path` (absolute, in its hierarchy).
    ///
    /// # Errors
    /// Only what may pass: the machine is out of file handles or memory just now.
    pub(super) fn identify(&self, host: &Host, path: &[u8]) -> io::Result<Identity> {
        let relative = path.strip_prefix(b"/").unwrap_or(path);
        let text = String::from_utf8_lossy(relative);
        let segments: Vec<&str> = text.split('/').collect();
        // The innermost container wins; what is below it becomes part of the name.
        for depth in (0..segments.len()).rev() {
            if let Some(identity) = self.container(host, &segments[..=depth])? {
                let mut identity = sendable(identity);
                for below in &segments[depth + 1..] {
                    identity.name.push(b'/');
                    identity.name.extend_from_slice(below.as_bytes());
                }
                return Ok(identity);
            }
        }
        let is_unit = segments.last().is_some_and(|leaf| {
            [".service", ".slice", ".scope", ".socket", ".mount", ".swap"].iter().any(|suffix| leaf.ends_with(suffix))
        });
        let orchestrator = if is_unit { Orchestrator::SYSTEMD } else { Orchestrator::UNKNOWN };
        let name = if relative.is_empty() { path } else { relative };
        Ok(Identity { orchestrator, name: name.to_vec(), labels: Vec::new() })
    }

    fn container(&self, host: &Host, segments: &[&str]) -> io::Result<Option<Identity>> {
        let Some((leaf, above)) = segments.split_last() else { return Ok(None) };
        let parent = above.last().copied().unwrap_or_default();
        let unit = leaf.strip_suffix(".scope").unwrap_or(leaf);
        let in_kube = above.iter().any(|segment| segment.starts_with("kubepods"));
        if let Some(uid) = pod_uid(leaf).filter(|_| in_kube || leaf.starts_with("kubepods")) {
            return Ok(Some(self.pod(&uid)));
        }
        if let Some(id) = container_id(unit) {
            let engine = &unit[..unit.len() - ID];
            return match engine {
                _ if in_kube => self.kube_container(host, id).map(Some),
                "docker-" => docker(host, id).map(Some),
                "" if parent == "docker" => docker(host, id).map(Some),
                "libpod-" => Ok(Some(self.podman.get(id).cloned().unwrap_or_else(|| short(Orchestrator::PODMAN, id)))),
                "cri-containerd-" | "crio-" => self.kube_container(host, id).map(Some),
                _ => Ok(None),
            };
        }
        Ok(machine(leaf, parent).map(|(orchestrator, name)| Identity { orchestrator, name, labels: Vec::new() }))
    }

    fn pod(&self, uid: &str) -> Identity {
        let Some([namespace, pod]) = self.kube_pods.get(uid) else {
            return Identity { orchestrator: Orchestrator::K8S, name: format!("pod{uid}").into(), labels: Vec::new() };
        };
        let labels = vec![label("namespace", namespace), label("pod", pod)];
        Identity { orchestrator: Orchestrator::K8S, name: pod.clone().into(), labels }
    }

    /// The kubelet's log links name a container whatever runtime runs it; under dockershim docker's own record does
    /// too.
    fn kube_container(&self, host: &Host, id: &str) -> io::Result<Identity> {
        if let Some([pod, namespace, container]) = self.kube_containers.get(id) {
            let labels = vec![label("namespace", namespace), label("pod", pod), label("container", container)];
            return Ok(Identity { orchestrator: Orchestrator::K8S, name: format!("{pod}/{container}").into(), labels });
        }
        Ok(Identity { orchestrator: Orchestrator::K8S, ..docker(host, id)? })
    }
}

/// Whether a cgroup at this path, once gone, never comes back: the kernel says it was deleted, or it bears an id that
/// is given once. Units and named machines do come back.
pub(super) fn is_given_once(path: &[u8]) -> bool {
    let text = String::from_utf8_lossy(path);
    let has_id = |segment: &str| {
        container_id(segment.strip_suffix(".scope").unwrap_or(segment)).is_some() || pod_uid(segment).is_some()
    };
    text.ends_with(" (deleted)") || text.split('/').any(has_id)
}

/// The last 64 characters, if they are a container id.
fn container_id(unit: &str) -> Option<&str> {
    let id = unit.get(unit.len().checked_sub(ID)?..)?;
    id.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(id)
}

/// `pod<uid>` or `kubepods-burstable-pod<uid with _>.slice`; the uid in its usual spelling.
fn pod_uid(leaf: &str) -> Option<String> {
    let uid = match leaf.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1,
        None => leaf.strip_prefix("pod")?,
    };
    let is_uid = uid.len() >= 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-' || byte == b'_');
    is_uid.then(|| uid.replace('_', "-"))
}

/// Machines and system containers that carry their name in the path.
fn machine(leaf: &str, parent: &str) -> Option<(Orchestrator, Vec<u8>)> {
    let lxc = leaf.strip_prefix("lxc.payload.").or((parent == "lxc" || parent == "lxc.payload").then_some(leaf));
    if let Some(name) = lxc.filter(|name| !name.is_empty()) {
        return Some((Orchestrator::LXC, name.into()));
    }
    let numbered = |name: &str| name.split_once('-').map(|(_, name)| name.as_bytes().to_vec());
    if let Some(scope) = leaf.strip_suffix(".scope") {
        if parent == "qemu.slice" {
            return Some((Orchestrator::KVM, scope.into()));
        }
        let name = systemd_unescape(scope.strip_prefix("machine-")?);
        return match name.strip_prefix("qemu-") {
            Some(domain) => Some((Orchestrator::KVM, numbered(domain)?)),
            None => Some((Orchestrator::NSPAWN, name.into())),
        };
    }
    if let Some(domain) = leaf.strip_prefix("qemu-").and_then(|leaf| leaf.strip_suffix(".libvirt-qemu")) {
        return Some((Orchestrator::KVM, numbered(domain)?));
    }
    let name = leaf.strip_prefix("systemd-nspawn@")?.strip_suffix(".service")?;
    Some((Orchestrator::NSPAWN, systemd_unescape(name).into()))
}

/// systemd spells bytes that a unit name must not hold as `\x2d`, and `/` as `-`; only the former occur inside a
/// machine's name.
fn systemd_unescape(name: &str) -> String {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let hex = (*first == b'\\' && behind.first() == Some(&b'x'))
            .then(|| behind.get(1..3).and_then(|digits| std::str::from_utf8(digits).ok()))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match hex {
            Some(byte) => {
                plain.push(byte);
                rest = &behind[3..];
            }
            None => {
                plain.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn label(key: &str, value: &str) -> Label {
    (key.into(), value.into())
}

fn short(orchestrator: Orchestrator, id: &str) -> Identity {
    Identity { orchestrator, name: id[..SHORT_ID].into(), labels: Vec::new() }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerState {
    #[serde(default)]
    name: String,
    config: Option<DockerConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerConfig {
    #[serde(default)]
    image: String,
    labels: Option<BTreeMap<String, String>>,
}

fn docker(host: &Host, id: &str) -> io::Result<Identity> {
    let mut identity = short(Orchestrator::DOCKER, id);
    let path = host.file(format!("/var/lib/docker/containers/{id}/config.v2.json"));
    let state = match File::open(path).and_then(|file| read_bounded(file, STATE_MAX)) {
        Ok(state) => state,
        Err(error) if is_transient(&error) => return Err(error),
        Err(_) => return Ok(identity),
    };
    let Ok(state) = serde_json::from_slice::<DockerState>(&state) else { return Ok(identity) };
    let name = state.name.trim_start_matches('/');
    if !name.is_empty() {
        identity.name = name.into();
    }
    if let Some(config) = state.config {
        identity.labels =
            labels([("image".to_owned(), config.image)].into_iter().chain(config.labels.unwrap_or_default()));
    }
    Ok(identity)
}

#[derive(Deserialize)]
struct PodmanContainer {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    metadata: String,
}

#[derive(Deserialize)]
struct PodmanMetadata {
    #[serde(rename = "image-name", default)]
    image: String,
}

fn podman(host: &Host) -> io::Result<HashMap<String, Identity>> {
    let path = host.file("/var/lib/containers/storage/overlay-containers/containers.json");
    let state = or_nothing(File::open(path).and_then(|file| read_bounded(file, STATE_MAX)))?;
    let containers: Vec<PodmanContainer> = serde_json::from_slice(&state).unwrap_or_default();
    let named = containers.into_iter().filter(|container| container_id(&container.id) == Some(&container.id));
    let named = named
        .map(|container| {
            let mut identity = short(Orchestrator::PODMAN, &container.id);
            if let Some(name) = container.names.first().filter(|name| !name.is_empty()) {
                identity.name = name.clone().into();
            }
            if let Ok(metadata) = serde_json::from_str::<PodmanMetadata>(&container.metadata) {
                identity.labels = labels([("image".to_owned(), metadata.image)]);
            }
            (container.id, identity)
        })
        .collect();
    Ok(named)
}

fn labels(pairs: impl IntoIterator<Item = (String, String)>) -> Vec<Label> {
    let is_missing_image = |key: &str, value: &str| key == "image" && value.is_empty();
    let pairs = pairs.into_iter().filter(|(key, value)| !key.is_empty() && !is_missing_image(key, value));
    pairs.map(|(key, value)| (key.into(), value.into())).take(usize::from(u16::MAX)).collect()
}

/// JSON and escaped unit names can hold what the wire cannot: NUL. It is left out, rather than whoever wrote it there
/// deciding that a whole answer is lost.
fn sendable(mut identity: Identity) -> Identity {
    identity.name.retain(|byte| *byte != 0);
    identity.labels.retain(|(key, value)| !key.contains(&0) && !value.contains(&0));
    identity
}

fn file_names(host: &Host, directory: &str) -> io::Result<impl Iterator<Item = String>> {
    let entries = or_nothing(fs::read_dir(host.file(directory)).map(Some))?.into_iter().flatten().flatten();
    Ok(entries.take(ENTRIES_MAX).filter_map(|entry| entry.file_name().into_string().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identify(host: &Host, path: &str) -> (Orchestrator, String, Vec<(String, String)>) {
        let identity = Names::read(host).unwrap().identify(host, path.as_bytes()).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let labels = identity.labels.into_iter().map(|(key, value)| (text(key), text(value))).collect();
        (identity.orchestrator, text(identity.name), labels)
    }

    fn write(host: &Host, path: &str, text: &str) {
        let file = host.file(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn paths_alone_tell_machines_and_units() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::at(directory.path());
        for (path, orchestrator, name) in [
            ("/init.scope", Orchestrator::SYSTEMD, "init.scope"),
            ("/system.slice/ssh.service", Orchestrator::SYSTEMD, "system.slice/ssh.service"),
            ("/some/where", Orchestrator::UNKNOWN, "some/where"),
            ("/lxc/ubuntu", Orchestrator::LXC, "ubuntu"),
            ("/lxc.payload.ubuntu/init.scope", Orchestrator::LXC, "ubuntu/init.scope"),
            ("/machine.slice/machine-qemu\\x2d3\\x2dweb\\x2done.scope", Orchestrator::KVM, "web-one"),
            ("/machine/qemu-12-db.libvirt-qemu", Orchestrator::KVM, "db"),
            ("/qemu.slice/104.scope", Orchestrator::KVM, "104"),
            ("/machine.slice/systemd-nspawn@deb.service", Orchestrator::NSPAWN, "deb"),
            ("/machine.slice/machine-deb\\x2d12.scope", Orchestrator::NSPAWN, "deb-12"),
            ("/machine.slice/machine-nul\\x00byte.scope", Orchestrator::NSPAWN, "nulbyte"),
        ] {
            assert_eq!(identify(&host, path), (orchestrator, name.to_owned(), vec![]), "{path}");
        }
    }

    #[test]
    fn containers_take_name_and_labels_from_the_files_of_their_engine() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::at(directory.path());
        let id = "0123456789abcdef".repeat(4);
        let short = "0123456789ab".to_owned();
        for path in [format!("/docker/{id}"), format!("/system.slice/docker-{id}.scope")] {
            assert_eq!(identify(&host, &path), (Orchestrator::DOCKER, short.clone(), vec![]), "without its file");
        }
        write(
            &host,
            &format!("/var/lib/docker/containers/{id}/config.v2.json"),
            r#"{"Name":"/web","Config":{"Image":"nginx:1","Labels":{"team":"a","nul":"x\u0000"}},"More":[1]}"#,
        );
        let labels = vec![("image".into(), "nginx:1".into()), ("team".into(), "a".into())];
        assert_eq!(identify(&host, &format!("/docker/{id}")), (Orchestrator::DOCKER, "web".into(), labels.clone()));
        let nested = identify(&host, &format!("/docker/{id}/system.slice/cron.service"));
        assert_eq!(nested, (Orchestrator::DOCKER, "web/system.slice/cron.service".into(), labels));

        write(
            &host,
            "/var/lib/containers/storage/overlay-containers/containers.json",
            &format!(r#"[{{"id":"{id}","names":["db"],"metadata":"{{\"image-name\":\"pg\"}}"}},{{"id":"short"}}]"#),
        );
        let podman = identify(&host, &format!("/machine.slice/libpod-{id}.scope"));
        assert_eq!(podman, (Orchestrator::PODMAN, "db".into(), vec![("image".into(), "pg".into())]));
    }

    #[test]
    fn pods_and_their_containers_take_names_from_the_kubelets_log_directory() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::at(directory.path());
        let id = "f".repeat(64);
        let uid = "11112222-3333-4444-5555-666677778888";
        let pod =
            format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
        assert_eq!(identify(&host, &pod), (Orchestrator::K8S, format!("pod{uid}"), vec![]));
        write(&host, &format!("/var/log/pods/shop_cart-0_{uid}/app/0.log"), "");
        write(&host, &format!("/var/log/containers/cart-0_shop_app-{id}.log"), "");
        let mut labels = vec![("namespace".to_owned(), "shop".to_owned()), ("pod".to_owned(), "cart-0".to_owned())];
        assert_eq!(identify(&host, &pod), (Orchestrator::K8S, "cart-0".into(), labels.clone()));
        assert_eq!(identify(&host, &format!("/kubepods/burstable/pod{uid}")).1, "cart-0");
        labels.push(("container".into(), "app".into()));
        let container = identify(&host, &format!("{pod}/cri-containerd-{id}.scope"));
        assert_eq!(container, (Orchestrator::K8S, "cart-0/app".into(), labels));
    }

    #[test]
    fn a_state_file_of_garbage_costs_the_name_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::at(directory.path());
        let id = "a".repeat(64);
        write(&host, &format!("/var/lib/docker/containers/{id}/config.v2.json"), "{ torn");
        assert_eq!(identify(&host, &format!("/docker/{id}")), (Orchestrator::DOCKER, "a".repeat(12), vec![]));
    }
}
