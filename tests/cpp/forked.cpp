// A process forked after a model was opened: forked BUNDLE STREAMS. Says what the child did: answered, refused or hangs.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "edgekit/edgekit.hpp"

int main(int, char** words) {
  edgekit::Settings settings;
  settings.streams = std::atoi(words[2]);
  const edgekit::Model model(words[1], settings);
  edgekit::Session session = model.session();
  const std::vector<std::uint8_t> pixels(64U * 64 * 3, 90);
  const edgekit::Image image{pixels.data(), 64, 64};
  session.predict(image);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // ends a child that waits for threads it has not
    try {
      session.predict(image);
      _exit(0);
    } catch (const edgekit::Error& error) {
      std::fprintf(stderr, "%s\n", error.what());
      _exit(error.kind() == edgekit::Error::Kind::usage ? 3 : 4);
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  session.predict(image);  // the parent goes on
  const char* did = WIFSIGNALED(status) ? "hangs" : WEXITSTATUS(status) == 0 ? "answered" : "refused";
  std::printf("%s\n", did);
  return 0;
}
