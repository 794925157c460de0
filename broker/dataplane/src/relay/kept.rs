//! A handle as it goes from one process to the other.
//!
//! What continues a chain is proven again there; a root and its limits are taken as they are: both processes are this
//! node's broker.

use std::sync::Arc;

use hopseal_custody::behalf::Presented;
use hopseal_custody::cert::Certificate;
use hopseal_custody::chain::Chain;
use hopseal_custody::compose::Root;
use hopseal_custody::error::Rejection;
use hopseal_custody::hash::{StatementHash, decode_base64, encode_base64};
use hopseal_custody::ids::SpiffeId;
use hopseal_custody::kept::{limits_text, read_limits, read_root, root_text};
use hopseal_custody::receive::KeptChain;
use hopseal_custody::usertoken::TokenType;
use serde::{Deserialize, Serialize};

use crate::broker::{Broker, Context, Continues};
use crate::clock;
use crate::gathered::Gathered;
use crate::handles::Held;
use crate::instance::InstanceKey;
use crate::terms::Terms;

/// What a handle stands for, as text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    pub handle: String,
    instance: String,
    component: String,
    pub expires_at: i64,
    /// Names what was obtained under it: handles of one call share it.
    pub gathered: u64,
    receipts: Vec<String>,
    newest_record: Option<String>,
    limits: String,
    /// Type and text of the user's token.
    token: Option<(String, String)>,
    continues: Continued,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Continued {
    Call { sealed: Vec<String>, certificates: Vec<String> },
    Task(String),
}

/// The name of what was obtained under a handle, for as long as it is held here.
pub fn key_of(receipts: &Arc<Gathered>) -> u64 {
    Arc::as_ptr(receipts) as usize as u64
}

/// The hashes among `texts`.
pub fn hashes(texts: &[String]) -> Vec<StatementHash> {
    texts.iter().filter_map(|text| StatementHash::parse(text)).collect()
}

impl Kept {
    pub fn new(held: &Held<Context>) -> Self {
        let context = &held.continues;
        let (token, continues) = match &context.continues {
            Continues::Call(chain) => (token_of(chain), call_of(chain)),
            Continues::Task(root) => {
                let token = root.user.as_ref().map(|token| (token.typ().as_str().to_owned(), token.text().to_owned()));
                (token, Continued::Task(root_text(root)))
            }
        };
        Self {
            handle: held.handle.clone(),
            instance: held.owner.instance().to_owned(),
            component: held.owner.component().to_owned(),
            expires_at: held.expires_at,
            gathered: key_of(&context.receipts),
            receipts: context.receipts.all().iter().map(ToString::to_string).collect(),
            newest_record: context.receipts.newest_record().map(|hash| hash.to_string()),
            limits: limits_text(context.terms.narrowing.as_ref(), &context.terms.approvals),
            token,
            continues,
        }
    }

    pub fn owner(&self) -> InstanceKey {
        InstanceKey::new(&self.instance, &self.component)
    }

    /// Puts what was obtained under it so far into `gathered`.
    pub fn fill(&self, gathered: &Gathered) {
        gathered.merge(&hashes(&self.receipts));
        if let Some(newest) = self.newest_record.as_deref().and_then(StatementHash::parse) {
            gathered.sent(newest);
        }
    }

    /// What it stands for, proven again.
    ///
    /// # Errors
    /// It does not hold here and now.
    pub fn restore(&self, broker: &Broker, receipts: Arc<Gathered>) -> Result<Context, Rejection> {
        let (narrowing, approvals) = read_limits(&self.limits)?;
        let token = self.token.as_ref().and_then(|(typ, text)| Some((TokenType::parse(typ)?, text.clone())));
        let continues = match &self.continues {
            Continued::Call { sealed, certificates } => {
                Continues::Call(self.restore_chain(broker, sealed, certificates, token)?)
            }
            Continued::Task(text) => Continues::Task(self.restore_root(broker, text, token)?),
        };
        Ok(Context { continues, receipts, terms: Terms { narrowing, approvals } })
    }

    fn restore_chain(
        &self,
        broker: &Broker,
        sealed: &[String],
        certificates: &[String],
        token: Option<(TokenType, String)>,
    ) -> Result<Chain, Rejection> {
        let unknown = || Rejection::new(hopseal_custody::error::Code::Identity, "no document names the component");
        let own: SpiffeId = broker.directory.by_qualified(&self.component).ok_or_else(unknown)?.id.clone();
        let certificates: Vec<Arc<Certificate>> =
            certificates.iter().filter_map(|text| Some(Arc::new(Certificate::parse(&decode_base64(text)?)?))).collect();
        let presented = Presented::one(token);
        let kept = KeptChain { sealed, certificates: &certificates, presented: &presented };
        let (bundles, policy) = (broker.trust.current(), broker.receive_policy());
        broker.receiver.restore_chain(kept, (&own, clock::now_s()), &bundles, &policy)
    }

    fn restore_root(&self, broker: &Broker, text: &str, token: Option<(TokenType, String)>) -> Result<Root, Rejection> {
        let policy = broker.receive_policy();
        let verify =
            |(typ, text): (TokenType, String)| policy.issuers.verify(&text, typ, &self.component, clock::now_s());
        read_root(text, token.map(verify).transpose()?)
    }
}

fn token_of(chain: &Chain) -> Option<(String, String)> {
    let behalf = chain.behalf()?;
    Some((behalf.typ()?.as_str().to_owned(), behalf.carried()?.to_owned()))
}

fn call_of(chain: &Chain) -> Continued {
    let mut certificates: Vec<String> = Vec::new();
    for certificate in chain.statements().flat_map(|statement| statement.certificates()) {
        let text = encode_base64(certificate.der());
        if !certificates.contains(&text) {
            certificates.push(text);
        }
    }
    Continued::Call {
        sealed: chain.statements().map(|statement| statement.sealed().to_owned()).collect(),
        certificates,
    }
}
