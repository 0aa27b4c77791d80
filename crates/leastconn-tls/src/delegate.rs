//! Macros for streams that delegate writing to an inner stream. `$with!(this, stream => …)`
//! must evaluate the expression with `stream` as a mutable reference to the inner stream of
//! `this`.

/// Implements the methods of [`tokio::io::AsyncWrite`].
macro_rules! delegate_write {
    ($with:ident) => {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            $with!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
        }

        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            $with!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            $with!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
        }
    };
}

/// Implements the methods of [`leastconn::net::Stream`] that end the connection.
macro_rules! delegate_end {
    ($with:ident) => {
        fn abort(&mut self) {
            $with!(self, stream => stream.abort());
        }

        fn poll_finish(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            $with!(self.get_mut(), stream => Pin::new(stream).poll_finish(cx))
        }
    };
}
