//! A connection that can be cut from outside, whatever the SSH session on it is waiting for.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A stream that ends when its token is cancelled. russh runs sessions in tasks of its own, which nothing else would end.
pub(super) struct Cut<S> {
    stream: S,
    reading: Pin<Box<WaitForCancellationFutureOwned>>,
    writing: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> Cut<S> {
    pub(super) fn new(stream: S, token: CancellationToken) -> Cut<S> {
        Cut { stream, reading: Box::pin(token.clone().cancelled_owned()), writing: Box::pin(token.cancelled_owned()) }
    }
}

fn cut<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
}

impl<S: AsyncRead + Unpin> AsyncRead for Cut<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.reading.as_mut().poll(cx).is_ready() {
            return cut();
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cut<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.writing.as_mut().poll(cx).is_ready() {
            return cut();
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.writing.as_mut().poll(cx).is_ready() {
            return cut();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.writing.as_mut().poll(cx).is_ready() {
            return cut();
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_waiting_reader_and_writer_are_cut() {
        let (near, _far) = tokio::io::duplex(8);
        let token = CancellationToken::new();
        let (mut reader, mut writer) = tokio::io::split(Cut::new(near, token.clone()));
        writer.write_all(b"12345678").await.unwrap();
        let reading = tokio::spawn(async move { reader.read_u8().await.is_err() });
        let writing = tokio::spawn(async move { writer.write_all(b"9").await.is_err() });
        tokio::task::yield_now().await;
        token.cancel();
        assert!(reading.await.unwrap() && writing.await.unwrap());
    }
}
