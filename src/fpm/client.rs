//! A FastCGI client.
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// SCRIPT_FILENAME: the script, as php-fpm sees it.
    pub script: PathBuf,
    /// DOCUMENT_ROOT
    pub document_root: PathBuf,
    /// REQUEST_URI: path and query.
    pub uri: String,
    /// REQUEST_METHOD
    pub method: String,
    /// Headers as a browser would send them.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// From the CGI header `Status:`; 200 without one.
    pub status: u16,
    /// Headers in their order, without `Status`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// What the application wrote to FCGI_STDERR.
    pub stderr: Vec<u8>,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {}

/// Sends `request` over the connected socket `stream` and waits for the whole response, at most `timeout`.
/// (A descriptor, not Read + Write: it polls both directions, so that no size of body deadlocks.)
pub fn exchange(
    _stream: &impl AsFd,
    _request: &Request,
    _timeout: Duration,
) -> Result<Response, ClientError> {
    todo!()
}
