// Prints what the tool has logged before the tool ends.
//
// llama.cpp's log has a thread that prints, and is never destroyed: what that thread has not
// printed when main() returns is lost (github.com/ggml-org/llama.cpp/issues/22142).
#include "log.h"

namespace {
struct FlushAtExit {
    ~FlushAtExit() { common_log_pause(common_log_main()); }
} flush_at_exit;
}  // namespace
