// The playhead, the prompt of the moment and seeking, for every timeline of the page.
document.querySelectorAll('[data-timeline]').forEach(line => {
  const video = document.getElementById(line.dataset.timeline);
  const head = line.querySelector('.playhead'), now = document.getElementById(line.dataset.caption);
  const spans = [...line.querySelectorAll('[data-start]')];
  const show = () => {
    if (!video.duration) return;
    head.style.left = 100 * video.currentTime / video.duration + '%';
    spans.forEach(span => {
      const on = video.currentTime >= +span.dataset.start - 1e-3 && video.currentTime < +span.dataset.end - 1e-3;
      span.classList.toggle('on', on);
      if (on) now.textContent = span.title;
    });
  };
  const tick = () => { show(); if (!video.paused) requestAnimationFrame(tick); };
  ['timeupdate', 'seeked', 'loadedmetadata'].forEach(name => video.addEventListener(name, show));
  video.addEventListener('play', tick);
  line.addEventListener('click', event => {
    const box = line.getBoundingClientRect();
    video.currentTime = Math.min(video.duration - 0.01, video.duration * (event.clientX - box.left) / box.width);
  });
});
