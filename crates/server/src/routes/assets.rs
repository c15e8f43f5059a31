//! `/v2/nvcf/assets`: pictures that are uploaded before they are asked about.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{OriginalUri, Path, Query, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use vlmd_api::{AssetBody, AssetCreated, AssetId, AssetInfo, AssetList, CreateAsset, ErrorBody};

use crate::assets::{self, About, AssetRefusal, Owner};
use crate::auth::Caller;
use crate::body;
use crate::error::Refusal;
use crate::state::AppState;

/// What an upload presents.
#[derive(Debug, Deserialize)]
pub(crate) struct UploadQuery {
    token: String,
}

/// A path's id. One that is not UTF-8 is nobody's.
type Id = Result<Path<String>, PathRejection>;

fn owner(request: &Request) -> Owner {
    Owner::from(request.extensions().get::<Caller>().copied())
}

fn text(id: Id) -> String {
    id.map_or_else(|_| String::new(), |Path(id)| id)
}

/// Makes an asset, whose bytes are then put to `uploadUrl`.
///
/// Requests name it as `data:image/png;asset_id,<assetId>` in place of a picture, until it is
/// deleted or `--asset-ttl` has passed. It belongs to the API key that made it.
#[utoipa::path(
    post,
    path = "/v2/nvcf/assets",
    tag = "assets",
    request_body = CreateAsset,
    responses(
        (status = 200, description = "The asset", body = AssetCreated),
        (status = 404, description = "This server takes no assets", body = ErrorBody),
        (status = 415, description = "No JSON, or no type of a picture", body = ErrorBody),
        (status = 429, description = "Too many assets; see `Retry-After`", body = ErrorBody),
    )
)]
pub(crate) async fn create(
    State(state): State<AppState>,
    request: Request,
) -> Result<Json<AssetCreated>, Refusal> {
    let owner = owner(&request);
    let address = address(&request, state.config().tls.is_some())?;
    let asset = body::read(request, state.config(), CreateAsset::from_slice).await?;
    let created = state.assets().create(owner, &asset)?;
    let (id, token) = (created.id, created.token);
    Ok(Json(AssetCreated {
        asset_id: id.to_string(),
        upload_url: format!("{address}/{id}/upload?token={token}"),
        content_type: asset.content_type,
        description: asset.description,
    }))
}

/// Lists the assets of the API key.
#[utoipa::path(
    get,
    path = "/v2/nvcf/assets",
    tag = "assets",
    responses((status = 200, description = "The assets", body = AssetList))
)]
pub(crate) async fn list(State(state): State<AppState>, request: Request) -> Json<AssetList> {
    let assets = state.assets().list(owner(&request));
    Json(AssetList {
        assets: assets
            .into_iter()
            .map(|(id, about)| info(id, &about))
            .collect(),
    })
}

/// Describes an asset.
#[utoipa::path(
    get,
    path = "/v2/nvcf/assets/{assetId}",
    tag = "assets",
    params(("assetId" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The asset", body = AssetBody),
        (status = 404, description = "No such asset", body = ErrorBody),
    )
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    id: Id,
    request: Request,
) -> Result<Json<AssetBody>, Refusal> {
    let (id, about) = state.assets().about(owner(&request), &text(id))?;
    Ok(Json(AssetBody {
        asset: info(id, &about),
    }))
}

/// Deletes an asset.
#[utoipa::path(
    delete,
    path = "/v2/nvcf/assets/{assetId}",
    tag = "assets",
    params(("assetId" = String, Path, description = "Its id")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "No such asset", body = ErrorBody),
    )
)]
pub(crate) async fn delete(
    State(state): State<AppState>,
    id: Id,
    request: Request,
) -> Result<StatusCode, Refusal> {
    state.assets().delete(owner(&request), &text(id))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes the bytes of an asset.
///
/// No API key is needed: the address is the secret, as with those of object stores. Bytes that
/// come again take the place of the older ones.
#[utoipa::path(
    put,
    path = "/v2/nvcf/assets/{assetId}/upload",
    tag = "assets",
    params(
        ("assetId" = String, Path, description = "Its id"),
        ("token" = String, Query, description = "As `uploadUrl` has it"),
        ("Content-Type" = Option<String>, Header, description = "As the asset was made with"),
        ("x-amz-meta-nvcf-asset-description" = Option<String>, Header,
            description = "As the asset was made with"),
    ),
    request_body(content = Vec<u8>, content_type = "image/*"),
    responses(
        (status = 200, description = "The bytes are there"),
        (status = 404, description = "Not an `uploadUrl`, or the asset is gone", body = ErrorBody),
        (status = 413, description = "Too many bytes", body = ErrorBody),
        (status = 415, description = "Another type than the asset's", body = ErrorBody),
        (status = 429, description = "No room; see `Retry-After`", body = ErrorBody),
    )
)]
pub(crate) async fn upload(
    State(state): State<AppState>,
    id: Id,
    query: Result<Query<UploadQuery>, QueryRejection>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let token = query.map_or_else(|_| String::new(), |Query(query)| query.token);
    let (parts, body) = request.into_parts();
    let (store, config) = (state.assets(), state.config());
    assets::receive(store, config, &text(id), &token, &parts.headers, body).await?;
    Ok(StatusCode::OK)
}

fn info(id: AssetId, about: &About) -> AssetInfo {
    let created = OffsetDateTime::from(about.created);
    AssetInfo {
        asset_id: id.to_string(),
        description: about.description.as_ref().into(),
        content_type: about.content_type.as_ref().into(),
        // Fails for years beyond 9999 only.
        created_at: created.format(&Rfc3339).unwrap_or_default(),
    }
}

/// The address under which the client reached this route, a root path included. `tls` is whether
/// the server speaks it itself.
///
/// Host and path are the client's own words, and go back to it alone: who gives another host is
/// sent there with their own picture, and nobody else is.
fn address(request: &Request, tls: bool) -> Result<String, AssetRefusal> {
    let headers = request.headers();
    let given = match request.uri().authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => headers
            .get(header::HOST)
            .map_or(b"".as_slice(), |host| host.as_bytes()),
    };
    let authority = Authority::try_from(given)
        .ok()
        .filter(|authority| !authority.as_str().contains('@'));
    let Some(authority) = authority else {
        let shown = String::from_utf8_lossy(given);
        let shown: String = shown.chars().take(64).collect();
        return Err(AssetRefusal::Host(format!("`{}`", shown.escape_debug())));
    };
    let original = request.extensions().get::<OriginalUri>();
    let path = original
        .map_or(request.uri(), |OriginalUri(uri)| uri)
        .path();
    let path = path.trim_end_matches('/');
    Ok(format!("{}://{authority}{path}", scheme(headers, tls)))
}

/// `https` where the server or a proxy in front of it speaks it.
fn scheme(headers: &HeaderMap, tls: bool) -> &'static str {
    let forwarded = headers.get("x-forwarded-proto").map(|value| {
        let first = value.as_bytes().split(|byte| *byte == b',').next();
        first.unwrap_or_default().trim_ascii()
    });
    match forwarded {
        Some(proto) if proto.eq_ignore_ascii_case(b"https") => "https",
        None if tls => "https",
        _ => "http",
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn address_of(uri: &str, headers: &[(&str, &str)], tls: bool) -> Option<String> {
        let builder = headers
            .iter()
            .fold(Request::builder().uri(uri), |builder, (name, value)| {
                builder.header(*name, *value)
            });
        address(&builder.body(Body::empty()).unwrap(), tls).ok()
    }

    #[test]
    fn uploads_go_where_the_client_came_to() {
        for (uri, headers, tls, expected) in [
            (
                "/x",
                vec![("host", "h:8000")],
                false,
                Some("http://h:8000/x"),
            ),
            (
                "/x",
                vec![("host", "[::1]:8000")],
                false,
                Some("http://[::1]:8000/x"),
            ),
            ("/x/", vec![("host", "h")], true, Some("https://h/x")),
            (
                "http://a:1/x",
                vec![("host", "b")],
                false,
                Some("http://a:1/x"),
            ),
            (
                "/x",
                vec![("host", "h"), ("x-forwarded-proto", "HTTPS, http")],
                false,
                Some("https://h/x"),
            ),
            // A proxy that speaks TLS to the server and not to clients.
            (
                "/x",
                vec![("host", "h"), ("x-forwarded-proto", "http")],
                true,
                Some("http://h/x"),
            ),
            (
                "/x",
                vec![("host", "h"), ("x-forwarded-proto", "gopher")],
                false,
                Some("http://h/x"),
            ),
            ("/x", vec![], false, None),
            ("/x", vec![("host", "")], false, None),
            ("/x", vec![("host", "user@h")], false, None),
            ("/x", vec![("host", "h/path?x")], false, None),
        ] {
            let address = address_of(uri, &headers, tls);
            assert_eq!(address.as_deref(), expected, "{uri} {headers:?} {tls}");
        }
    }

    #[test]
    fn a_root_path_stays_in_front() {
        let request = Request::builder().uri("/assets").header("host", "h");
        let mut request = request.body(Body::empty()).unwrap();
        let original = OriginalUri("/models/vision/assets".parse().unwrap());
        request.extensions_mut().insert(original);
        let address = address(&request, false).unwrap();
        assert_eq!(address, "http://h/models/vision/assets");
    }
}
