//! Every way to be somebody on a server: the right credentials connect and reach JetStream, wrong ones are told with the way
//! out.

#![allow(clippy::unwrap_used, clippy::panic, reason = "it is test code, though not all inside a test")]

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millstream::broker::{ConnectOptions, NatsServer, StreamConfig};
use millstream::connectors::{Connections, Purpose};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa};
use serde_json::{Value, json};

type Set = Box<dyn Fn(&mut ConnectOptions)>;

/// A way to log in, with a server that wants it.
struct Way {
    name: &'static str,
    server: String,
    right: Set,
    /// Wrong ways, each with words that its error must have.
    wrong: Vec<(Set, &'static [&'static str])>,
}

fn set(set: impl Fn(&mut ConnectOptions) + 'static) -> Set {
    Box::new(set)
}

/// Connects as a pipeline does, and makes and finds a stream.
async fn reach(server: &NatsServer, way: &Set) -> Result<(), String> {
    let mut options = ConnectOptions::default();
    options.urls = vec![server.url()];
    options.connect_timeout_s = Some(2);
    way(&mut options);
    let connections = Connections::to_nats(options).map_err(|fault| fault.chain())?;
    let js = connections.js(Purpose::Write).await.map_err(|fault| fault.chain())?;
    js.create_stream(&StreamConfig::new("S", ["s.>"])).await.map_err(|error| error.to_string())?;
    assert_eq!(js.stream("S").await.unwrap().config.subjects, ["s.>"]);
    Ok(())
}

const CHECK_USER: &[&str] = &["check token, user and password, nkey_seed_file or credentials_file", "127.0.0.1"];

/// A token, and user and password.
fn words() -> Vec<Way> {
    let token = |text: &'static str| set(move |options| options.token = Some(text.to_owned().into()));
    let user = |password: &'static str| {
        set(move |options| {
            options.user = Some("ada".to_owned());
            options.password = Some(password.to_owned().into());
        })
    };
    let in_url = |who: &'static str| {
        set(move |options| options.urls = vec![options.urls.concat().replace("nats://", &format!("nats://{who}@"))])
    };
    vec![
        Way {
            name: "token",
            server: "authorization { token: \"hush\" }".to_owned(),
            right: token("hush"),
            wrong: vec![(token("wrong-secret"), CHECK_USER), (set(|_| {}), CHECK_USER)],
        },
        Way {
            name: "user and password",
            server: "authorization { user: ada, password: hush }".to_owned(),
            right: user("hush"),
            wrong: vec![(user("wrong-secret"), CHECK_USER), (in_url("ada:wrong-secret"), CHECK_USER)],
        },
        Way {
            name: "user and password in the URL",
            server: "authorization { user: ada, password: hush }".to_owned(),
            right: in_url("ada:hush"),
            wrong: vec![],
        },
    ]
}

fn write(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A JWT as the `nsc` tool makes them.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: &Value) -> String {
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let claims = json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name, "sub": subject.public_key(),
        "nats": nats,
    });
    let body = format!("{}.{}", encode(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })), encode(&claims));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(body.as_bytes()).unwrap());
    format!("{body}.{signature}")
}

/// An nkey, and a credentials file of a decentralised account.
fn keys(folder: &Path) -> Vec<Way> {
    let (user, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let seed_file = |name: &str, key: &KeyPair| {
        let path = write(folder, name, key.seed().unwrap() + "\n");
        set(move |options| options.nkey_seed_file = Some(path.clone()))
    };
    let nowhere = folder.join("nowhere");
    let nowhere_too = nowhere.clone();
    let (operator, system, account) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let all = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_account = json!({ "type": "account", "version": 2, "limits": all });
    let of_user = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    let without =
        json!({ "type": "account", "version": 2, "limits": { "subs": -1, "data": -1, "payload": -1, "conn": -1 } });
    let server = format!(
        "operator: {}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload {{\n {system}: {}\n {account}: {}\n}}",
        jwt(&operator, &operator, "operator", &json!({ "type": "operator", "version": 2 })),
        jwt(&operator, &system, "SYS", &without),
        jwt(&operator, &account, "orders", &of_account),
        system = system.public_key(),
        account = account.public_key(),
    );
    let creds = |name: &str, by: &KeyPair, key: &KeyPair| {
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            jwt(by, &user, "ada", &of_user),
            key.seed().unwrap()
        );
        let path = write(folder, name, text);
        set(move |options| options.credentials_file = Some(path.clone()))
    };
    vec![
        Way {
            name: "nkey",
            server: format!("authorization {{ users: [ {{ nkey: {} }} ] }}", user.public_key()),
            right: seed_file("user.nk", &user),
            wrong: vec![
                (seed_file("stranger.nk", &stranger), CHECK_USER),
                (set(move |options| options.nkey_seed_file = Some(nowhere.clone())), &["`nkey_seed_file`", "nowhere"]),
            ],
        },
        Way {
            name: "credentials file",
            server,
            right: creds("user.creds", &account, &user),
            wrong: vec![
                // Signed by an account that the server does not know; and with a seed of somebody else.
                (creds("forged.creds", &KeyPair::new_account(), &user), CHECK_USER),
                (creds("stolen.creds", &account, &stranger), CHECK_USER),
                (
                    set(move |options| options.credentials_file = Some(nowhere_too.clone())),
                    &["`credentials_file`", "nowhere"],
                ),
            ],
        },
    ]
}

/// TLS, with and without a certificate of the client.
fn certificates(folder: &Path) -> Vec<Way> {
    let authority = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let path = write(folder, &format!("{name}.pem"), issuer.as_ref().pem());
        (issuer, path)
    };
    let ((ours, ca), (theirs, other_ca)) = (authority("ca"), authority("other-ca"));
    let signed = |name: &str, by: &CertifiedIssuer<'_, rcgen::KeyPair>| {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let cert = CertificateParams::new(names).unwrap().signed_by(&key, by).unwrap();
        let cert = write(folder, &format!("{name}.pem"), cert.pem());
        (cert, write(folder, &format!("{name}.key"), key.serialize_pem()))
    };
    let (server_cert, server_key) = signed("server", &ours);
    let client = signed("client", &ours);
    let stranger = signed("stranger", &theirs);
    let tls = |more: &str| format!("tls {{ cert_file: {server_cert:?}, key_file: {server_key:?}, {more} }}");
    let trusting = |ca: &Path| {
        let ca = ca.to_owned();
        set(move |options| options.tls.ca = Some(ca.clone()))
    };
    let showing = |(cert, key): &(std::path::PathBuf, std::path::PathBuf)| {
        let (ca, cert, key) = (ca.clone(), cert.clone(), key.clone());
        set(move |options| {
            options.tls.ca = Some(ca.clone());
            options.tls.cert = Some(cert.clone());
            options.tls.key = Some(key.clone());
        })
    };
    let first = {
        let ca = ca.clone();
        move || {
            let ca = ca.clone();
            set(move |options| {
                options.tls.ca = Some(ca.clone());
                options.tls.first = true;
            })
        }
    };
    const CHECK_TLS: &[&str] = &["check tls.ca, tls.cert and tls.key", "127.0.0.1"];
    vec![
        Way {
            name: "TLS",
            server: tls(""),
            right: trusting(&ca),
            wrong: vec![
                (set(|_| {}), CHECK_TLS),
                (trusting(&other_ca), CHECK_TLS),
                (trusting(&folder.join("nowhere")), &["`tls.ca`", "nowhere"]),
            ],
        },
        Way {
            name: "TLS with certificates on both sides",
            server: tls(&format!("ca_file: {ca:?}, verify: true")),
            right: showing(&client),
            wrong: vec![(trusting(&ca), CHECK_TLS), (showing(&stranger), CHECK_TLS)],
        },
        Way {
            name: "TLS before the server speaks",
            // It speaks in the clear if nobody begins in time, which tells the test that it is up.
            server: tls("handshake_first: 500ms"),
            right: first(),
            wrong: vec![(set(|_| {}), CHECK_TLS)],
        },
        Way {
            name: "no TLS",
            server: String::new(),
            right: set(|_| {}),
            wrong: vec![(set(|options| options.tls.required = true), CHECK_TLS), (first(), CHECK_TLS)],
        },
    ]
}

/// A context of the `nats` tool, and a JetStream domain.
fn places(folder: &Path) -> Vec<Way> {
    let context = |name: &str, password: &str| {
        let path = folder.join(name).display().to_string();
        let password = password.to_owned();
        set(move |options| {
            // The context names the server.
            let url = std::mem::take(&mut options.urls).concat();
            let text = json!({ "url": url, "user": "ada", "password": password, "jetstream_domain": "hub" });
            std::fs::write(&path, text.to_string()).unwrap();
            options.context = Some(path.clone());
        })
    };
    let domain = |name: &'static str| set(move |options| options.domain = Some(name.to_owned()));
    let missing = folder.join("missing.json").display().to_string();
    let hub = |name: &str| format!("jetstream {{ store_dir: {:?}, domain: hub }}", folder.join(name));
    vec![
        Way {
            name: "context",
            server: format!("{}\nauthorization {{ user: ada, password: hush }}", hub("context-data")),
            right: context("context.json", "hush"),
            wrong: vec![
                (context("wrong.json", "wrong-secret"), CHECK_USER),
                (
                    set(move |options| options.context = Some(missing.clone())),
                    &["missing.json", "`nats context ls` shows what there is"],
                ),
            ],
        },
        Way {
            name: "domain",
            server: hub("domain-data"),
            right: domain("hub"),
            wrong: vec![(domain("nub"), &["$JS.nub.API", "in another domain"])],
        },
    ]
}

#[tokio::test]
async fn every_way_to_log_in_works_and_wrong_ones_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut failures = Vec::new();
    for Way { name, server, right, wrong } in
        [words(), keys(folder), certificates(folder), places(folder)].into_iter().flatten()
    {
        let server = NatsServer::start_with(&server).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        if let Err(error) = reach(&server, &right).await {
            failures.push(format!("{name}: {error}\n{}", server.last_words()));
        }
        for (number, (way, parts)) in wrong.iter().enumerate() {
            let error = match reach(&server, way).await {
                Ok(()) => "it was let in".to_owned(),
                Err(error) => error,
            };
            println!("{name}, wrong way {number}: {error}");
            if parts.iter().any(|part| !error.contains(part)) || error.contains("wrong-secret") {
                failures.push(format!("{name}, wrong way {number}: {error} lacks some of {parts:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
